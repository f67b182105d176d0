// SPDX-License-Identifier: Apache-2.0

// Package supervise has what the agent and the supervisor in the guest tell each
// other, through two folders of the node that are mounted into the guest. It has only
// formats, paths and bounds; it does no I/O and imports only the standard library,
// because it is part of the small guest binary.
//
// The folder In is read-only in the guest. In the folder Out the guest may write the
// report file, which is untrusted: believe it for the outcome of the workload and
// for nothing else. The agent makes the folder and, empty, the file in it before each
// start of the machine. The folder belongs to root with mode 0755, the file has mode
// 0666. So the guest can create and replace nothing there, and users other than root,
// who cannot create files in a mounted folder at all, can report too. smolvm refuses to
// mount folders below /run, /etc, /usr, /dev, /boot and /var/log of the node.
package supervise

import (
	"bytes"
	"time"
)

// Where the folders are in the guest, and the files in them.
const (
	In  = "/run/bottle/in"
	Out = "/run/bottle/out"

	// Program, in In, is the guest binary, bottle-guest.
	Program = "bottle-guest"
	// OrdersFile, in In, has the Orders. The agent replaces it by rename. The
	// supervisor reads it when it starts, about five times a second while it is Idle,
	// and whenever the workload has ended.
	OrdersFile = "orders.json"
	// TrustDir, in In, has what the guest trusts if its bundle opens connections: PEMFile
	// has the Bottle's authority and the public ones, and StoreFile has the same as a
	// PKCS#12 store for JVMs. A machine without a supervisor has only this folder of In.
	TrustDir  = "trust"
	PEMFile   = "bundle.pem"
	StoreFile = "truststore.p12"
	// ReportFile, in Out, has the newest Report; see Record and Parse.
	ReportFile = "report.json"

	// MaxReport is the size of the report file in bytes; a larger one is no report.
	MaxReport = 4096
)

// Orders are what the supervisor is to do.
type Orders struct {
	// Start identifies this start of the machine; the report repeats it.
	Start string `json:"start"`
	// Workload is Run, or Idle to start nothing and to wait.
	Workload string `json:"workload"`
	// RestartPolicy is that of the Bottle. An unknown value counts as Always.
	RestartPolicy string `json:"restartPolicy"`
	// Stdin is that of the Bottle. An unknown value counts as Closed.
	Stdin string `json:"stdin"`
	// Restarts is the number of restarts that the report starts with.
	Restarts int32 `json:"restarts"`
	// Env has variables for the command in addition to those of the machine, which they
	// override.
	Env map[string]string `json:"env,omitempty"`
}

// Values of Orders.Workload.
const (
	Run  = "Run"
	Idle = "Idle"
)

// Values of Orders.RestartPolicy and Orders.Stdin, as in the API.
const (
	RestartAlways    = "Always"
	RestartOnFailure = "OnFailure"
	RestartNever     = "Never"

	StdinClosed   = "Closed"
	StdinOpen     = "Open"
	StdinTerminal = "Terminal"
)

// Report is what the supervisor says of the workload. It is written at each change.
type Report struct {
	Start string `json:"start"`
	// StartTime is when the command last started, FinishTime when it last ended; zero
	// while it runs.
	StartTime  time.Time `json:"startTime,omitzero"`
	FinishTime time.Time `json:"finishTime,omitzero"`
	// ExitCode is set once the command has ended by itself: 0 to 255. 127 means that
	// the command does not exist, 126 that it cannot be run, as in a shell.
	ExitCode *int32 `json:"exitCode,omitempty"`
	// Signal is the number of the signal that ended the command; 0 if none did.
	Signal int `json:"signal,omitempty"`
	// Restarts counts the starts of the command apart from the first.
	Restarts int32 `json:"restarts,omitempty"`
	// NextStartTime is when the command is started again; zero if it is not in a pause.
	NextStartTime time.Time `json:"nextStartTime,omitzero"`
	// Final: the command is not started again in this machine start. If it was stopped
	// before it ever started, StartTime is zero. A report with a FinishTime that is
	// neither Final nor has a NextStartTime means that the supervisor itself got
	// SIGTERM, as it does when the machine is stopped.
	Final bool `json:"final,omitempty"`
	// LostOutput is the number of bytes of output that were discarded, because they
	// came faster than they could be kept.
	LostOutput int64 `json:"lostOutput,omitempty"`
}

// Pauses between two starts of a command, as kubelet's: the first is FirstPause; each
// is twice the last one, up to MaxPause; after the command has run for ResetAfter, the
// next one is FirstPause again.
const (
	FirstPause = 10 * time.Second
	MaxPause   = 5 * time.Minute
	ResetAfter = 10 * time.Minute
)

// The texts of the line of the stream system that ends each run in the log of a workload:
// its exit code, or the signal that ended it.
const (
	ExitText   = "exit "
	SignalText = "signal "
)

// EndsRun reports whether tail, the end of a log, ends with the line that ends a run.
func EndsRun(tail []byte) bool {
	line, whole := bytes.CutSuffix(tail, []byte{'\n'})
	line = line[bytes.LastIndexByte(line, '\n')+1:]
	_, text, ok := bytes.Cut(line, []byte(" system F "))
	return whole && ok && (bytes.HasPrefix(text, []byte(ExitText)) || bytes.HasPrefix(text, []byte(SignalText)))
}
