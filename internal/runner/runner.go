// SPDX-License-Identifier: Apache-2.0

// Package runner starts other programs, and is the only place of the product
// that does. A program gets exactly the argv and the environment that it is
// given, a process group of its own, and a bounded time; both its outputs are
// always drained, so that it never blocks or dies on a full or closed pipe.
// Where this process is protected from the OOM killer, programs are not.
//
// It knows nothing of the programs: it interprets no output, retries nothing,
// never uses a shell, never logs, and never passes on this process's own
// environment.
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

// Defaults of Command's zero fields.
const (
	DefaultTimeout   = time.Minute
	DefaultGrace     = 5 * time.Second
	DefaultMaxOutput = 4 << 20
)

// ErrNetNS is the cause of a run that did not start because its network
// namespace could not be entered.
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
	// NetNS is the file of the network namespace that the program is started
	// in; empty is this process's own. It takes CAP_SYS_ADMIN.
	NetNS string
	// Cgroup is the folder of the control group (cgroup v2) that the program
	// is started in, and so all that it starts; nil is this process's own. The
	// caller keeps it open during the run. It takes Linux 5.7.
	Cgroup *os.File
	// Dir is the working directory; empty means /.
	Dir string
	// Stdin is what the program reads; nil is /dev/null. A reader that blocks
	// does not hold up the end of the run, but is read from until it answers.
	Stdin io.Reader
	// Stdout and Stderr get the output as it comes. Where they are nil the
	// output is kept in the Result, up to MaxOutput bytes each; the rest is
	// read and dropped.
	Stdout, Stderr io.Writer
	MaxOutput      int
	// Timeout bounds the run; zero is DefaultTimeout.
	Timeout time.Duration
	// Signal is what the process group is sent when the time is over or the
	// context ends; zero is SIGTERM.
	Signal syscall.Signal
	// Grace is how long it has after Signal before SIGKILL.
	Grace time.Duration
}

// Result is how a run that took place ended.
type Result struct {
	// ExitCode is that of the program, or -1 when a signal ended it.
	ExitCode int
	Stdout   []byte
	Stderr   []byte
	// Truncated: more was written than kept.
	Truncated bool
}

// Runner runs programs; an interface so that tests can record and answer.
type Runner interface {
	// Run returns nil after exit code 0. Otherwise the error is a *Error, and
	// the Result holds what is known.
	Run(ctx context.Context, c Command) (Result, error)
}

// Error is a run that did not end well.
type Error struct {
	// Argv is the program and its arguments. It is not part of the text.
	Argv []string
	// ExitCode is -1 when the program did not start or was ended by a signal.
	ExitCode int
	// Started is false when there was nothing to run.
	Started bool
	// TimedOut: the run's own time was over.
	TimedOut bool
	// Tail is the end of stderr, where the Result holds stderr.
	Tail string
	// Err is the cause where it is not the exit code: why it did not start,
	// the context's error, the signal.
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
		text = fmt.Sprintf("%s: ran out of time", name)
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
