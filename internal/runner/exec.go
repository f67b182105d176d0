// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const (
	// pipeDelay is how long an output may stay open after the program has ended,
	// because a process that it left behind holds it.
	pipeDelay = 2 * time.Second
	// streamDelay is the same for output that goes to the caller's writer, which
	// may be slow.
	streamDelay = 30 * time.Second
	// killDelay is how long a process may take to exit after SIGKILL.
	killDelay = 10 * time.Second
	// tailBytes is how much of stderr goes into an error.
	tailBytes = 2048
)

// Exec is the Runner that runs programs.
type Exec struct{}

// Run implements Runner.
func (Exec) Run(ctx context.Context, c Command) (Result, error) {
	if c.Timeout = cmp.Or(c.Timeout, DefaultTimeout); c.Timeout != NoTimeout {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.Timeout, errTimeout)
		defer cancel()
	}
	if ctx.Err() != nil {
		return Result{ExitCode: -1}, &Error{Argv: argv(c), ExitCode: -1, Err: ctx.Err(), TimedOut: timedOut(ctx)}
	}
	r := &run{c: c, stdout: &capped{max: cmp.Or(c.MaxOutput, DefaultMaxOutput)}, stderr: &capped{max: cmp.Or(c.MaxOutput, DefaultMaxOutput)}}
	if err := r.start(); err != nil {
		return Result{ExitCode: -1}, &Error{Argv: argv(c), ExitCode: -1, Err: err}
	}
	return r.result(ctx, r.wait(ctx))
}

var errTimeout = errors.New("timed out")

func timedOut(ctx context.Context) bool { return errors.Is(context.Cause(ctx), errTimeout) }

func argv(c Command) []string { return append([]string{c.Path}, c.Args...) }

// run is one running program.
type run struct {
	c              Command
	cmd            *exec.Cmd
	stdout, stderr *capped
	// terminal is nil unless the program has one.
	terminal *terminal
	// interrupted: the program was signalled because ctx ended.
	interrupted bool
}

func (r *run) start() error {
	cmd := exec.Command(r.c.Path, r.c.Args...)
	cmd.Env = r.c.Env
	if cmd.Env == nil {
		cmd.Env = []string{} // nil would mean this process's environment
	}
	cmd.Dir = cmp.Or(r.c.Dir, "/")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if r.c.Cgroup != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(r.c.Cgroup.Fd())
	}
	cmd.WaitDelay = pipeDelay
	cmd.Stdout, cmd.Stderr = io.Writer(r.stdout), io.Writer(r.stderr)
	if r.c.Stdout != nil || r.c.Stderr != nil {
		cmd.WaitDelay = streamDelay
	}
	if r.c.Stdout != nil {
		cmd.Stdout = &drain{w: r.c.Stdout}
	}
	if r.c.Stderr != nil {
		cmd.Stderr = &drain{w: r.c.Stderr}
	}
	if r.c.Terminal != nil {
		return r.startOnTerminal(cmd)
	}
	var stdin io.WriteCloser
	if r.c.Stdin != nil {
		// Not cmd.Stdin: Wait would then wait for a blocked reader.
		var err error
		if stdin, err = cmd.StdinPipe(); err != nil {
			return err
		}
	}
	if err := startIn(r.c.NetNS, cmd.Start); err != nil {
		return err
	}
	r.cmd = cmd
	DropOOMProtection(cmd.Process.Pid)
	if stdin != nil {
		go func() {
			_, _ = io.Copy(stdin, r.c.Stdin) // ends when the program does
			_ = stdin.Close()
		}()
	}
	return nil
}

// wait waits until the program has ended. If ctx ends first, it ends the program.
func (r *run) wait(ctx context.Context) error {
	done := make(chan error, 1)
	go func() {
		err := r.cmd.Wait()
		if r.terminal != nil {
			err = cmp.Or(err, r.terminal.close(r.cmd.WaitDelay))
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	r.interrupted = true
	r.signal(cmp.Or(r.c.Signal, syscall.SIGTERM))
	if ended, err := within(done, cmp.Or(r.c.Grace, DefaultGrace)); ended {
		return err
	}
	r.signal(syscall.SIGKILL)
	if ended, err := within(done, killDelay); ended {
		return err
	}
	return fmt.Errorf("process %d is still there after SIGKILL", r.cmd.Process.Pid)
}

// within waits for done, d at most.
func within(done <-chan error, d time.Duration) (ended bool, err error) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case err := <-done:
		return true, err
	case <-t.C:
		return false, nil
	}
}

// signal signals the whole process group. The leader has not been reaped yet, so
// no other process can have its PID.
func (r *run) signal(s syscall.Signal) { _ = syscall.Kill(-r.cmd.Process.Pid, s) }

func (r *run) result(ctx context.Context, err error) (Result, error) {
	res := Result{
		ExitCode:  -1,
		Stdout:    r.stdout.bytes(),
		Stderr:    r.stderr.bytes(),
		Truncated: r.stdout.cut() || r.stderr.cut(),
	}
	fail := &Error{Argv: argv(r.c), ExitCode: -1, Started: true, Tail: tail(res.Stderr)}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		res.ExitCode = exit.ExitCode()
	}
	switch {
	case r.interrupted:
		fail.Err, fail.TimedOut = cmp.Or(ctx.Err(), err), timedOut(ctx)
	case err == nil:
		res.ExitCode = 0
		return res, nil
	case errors.Is(err, exec.ErrWaitDelay):
		// The program succeeded, but an output was not read to its end: a process
		// that the program left behind holds it open, or the writer is too slow.
		res.ExitCode, res.Truncated = 0, true
		return res, nil
	case exit == nil:
		fail.Err = err
	default:
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			fail.Err = fmt.Errorf("ended by signal %d (%v)", int(ws.Signal()), ws.Signal())
		}
	}
	fail.ExitCode = res.ExitCode
	return res, fail
}

// tail returns the last tailBytes of stderr, without partial characters and
// surrounding white space.
func tail(b []byte) string {
	if len(b) > tailBytes {
		b = b[len(b)-tailBytes:]
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(b), ""))
}
