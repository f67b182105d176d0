// SPDX-License-Identifier: Apache-2.0

// Package runner starts other programs. It is the only package of the product that
// does. A program gets exactly the argv and the environment of its Command, its
// own process group, and a limited time. Both outputs are always drained, so that
// the program never blocks on a full pipe or dies because of a closed one. If
// this process is protected from the OOM killer, the programs are not.
//
// It knows nothing about the programs: it interprets no output, retries nothing,
// never uses a shell, never logs, and never passes on this process's environment.
package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Defaults for zero fields of Command.
const (
	DefaultTimeout   = time.Minute
	DefaultGrace     = 5 * time.Second
	DefaultMaxOutput = 4 << 20
)

// ErrNetNS means that a program did not start because its network namespace could
// not be entered.
var ErrNetNS = errors.New("cannot enter the network namespace")

// NoTimeout lets a program run until the caller's context ends.
const NoTimeout = time.Duration(-1)

// Command is one run of a program.
type Command struct {
	// Path is the program, absolute.
	Path string
	// Args are its arguments, without the program's own name. They must hold
	// no secrets: every user of the machine can read them.
	Args []string
	// Env is the whole environment; nil is an empty one.
	Env []string
	// NetNS is the file of the network namespace in which the program starts;
	// empty means this process's namespace. It requires CAP_SYS_ADMIN.
	NetNS string
	// Cgroup is the folder of the control group (cgroup v2) in which the program
	// and everything that it starts run; nil means this process's cgroup. The
	// caller keeps it open during the run. It requires Linux 5.7.
	Cgroup *os.File
	// Dir is the working directory; empty means /.
	Dir string
	// Stdin is what the program reads; nil is /dev/null. A blocked reader does not
	// delay the end of the run, but a goroutine stays blocked in Read until it
	// returns.
	Stdin io.Reader
	// Stdout and Stderr get the output as the program writes it. If one is nil, the
	// Result holds the first MaxOutput bytes of that output; the rest is dropped.
	Stdout, Stderr io.Writer
	MaxOutput      int
	// Terminal gives the program a terminal as its stdin, stdout and stderr; nil is
	// none. Everything that it prints goes to Stdout. The end of Stdin does not reach the
	// program.
	Terminal *Terminal
	// Timeout bounds the run; zero is DefaultTimeout.
	Timeout time.Duration
	// Signal is the signal that the process group gets when the timeout expires or
	// the context ends; zero is SIGTERM.
	Signal syscall.Signal
	// Grace is the time between Signal and SIGKILL; zero is DefaultGrace.
	Grace time.Duration
}

// Terminal is a terminal of a program. It is in raw mode when the program starts.
type Terminal struct {
	// Columns and Rows are its size when the program starts.
	Columns, Rows uint16
	// Next waits for its next size and returns false if there is none any more, or when
	// ctx ends, which it does when the program has ended. nil means that the size stays.
	Next func(ctx context.Context) (columns, rows uint16, ok bool)
}

// Result is the result of a run.
type Result struct {
	// ExitCode is the program's exit code, or -1 if it did not start or a signal
	// ended it.
	ExitCode int
	Stdout   []byte
	Stderr   []byte
	// Truncated means that the program wrote more output than was kept, or that an
	// output was not read to its end.
	Truncated bool
}

// Runner runs programs. It is an interface so that tests can replace it.
type Runner interface {
	// Run returns nil if the exit code is 0. Otherwise the error is a *Error, and
	// the Result holds what is known.
	Run(ctx context.Context, c Command) (Result, error)
}

// Error describes a run that failed.
type Error struct {
	// Argv is the program and its arguments. It is not part of the error text.
	Argv []string
	// ExitCode is -1 if the program did not start or a signal ended it.
	ExitCode int
	// Started is false if the program could not be started.
	Started bool
	// TimedOut means that the run exceeded Command.Timeout.
	TimedOut bool
	// Tail is the end of stderr, if the Result holds stderr.
	Tail string
	// Err is the cause if it is not the exit code: why the program did not start,
	// the context's error, or the signal.
	Err error
}

func (e *Error) Error() string {
	name := "?"
	if len(e.Argv) > 0 {
		name = filepath.Base(e.Argv[0])
	}
	var text string
	switch {
	case !e.Started:
		return fmt.Sprintf("%s: did not start: %v", name, e.Err)
	case e.TimedOut:
		text = fmt.Sprintf("%s: timed out", name)
	case e.Err != nil:
		text = fmt.Sprintf("%s: %v", name, e.Err)
	default:
		text = fmt.Sprintf("%s: exit code %d", name, e.ExitCode)
	}
	if e.Tail != "" {
		text += ": " + e.Tail
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }
