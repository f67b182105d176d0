// SPDX-License-Identifier: Apache-2.0

package host

import (
	"io"
	"io/fs"
	"time"
)

// MachineLog names a log of a machine.
type MachineLog string

// Logs of a machine.
const (
	// WorkloadLog is the output of the machine's command. It is appended to over
	// restarts.
	WorkloadLog MachineLog = "workload"
	// ConsoleLog is the console of the guest.
	ConsoleLog MachineLog = "console"
)

// MaxLogGenerations is the largest number of files that one log of a machine has.
const MaxLogGenerations = 10

// LogFile is an open log. The machine's user can write anything to it, at any
// time. Every read must be bounded.
type LogFile interface {
	io.ReaderAt
	io.Closer
	Stat() (fs.FileInfo, error)
}

// WindowSize is the size of a terminal in characters.
type WindowSize struct {
	Columns, Rows uint16
}

// BundleLogRequest says which part of a bundle's log is read.
type BundleLogRequest struct {
	// Since and Until are the times between which docker received the lines; zero
	// means unlimited.
	Since, Until time.Time
	// Tail is the number of lines from the end; negative means all.
	Tail int64
	// Follow continues with new lines until the container ends.
	Follow bool
}

// BundleLogLine is a line that a bundle's container wrote, or a part of one. The text is
// not trusted.
type BundleLogLine struct {
	// Time is when docker received it.
	Time time.Time
	// Stderr: it was written to stderr, not to stdout.
	Stderr bool
	// Partial: the line continues in the next BundleLogLine of the same stream.
	Partial bool
	// Text is the line without its newline. It is valid only during the call.
	Text []byte
	// Decision is the line's content if it is a decision; otherwise nil.
	Decision *Decision
}
