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
	// pipeDelay is how long an output may stay open after the program ended,
	// held by a process that it left behind.
	pipeDelay = 2 * time.Second
	// streamDelay is the same for output that goes to a writer of the
	// caller's, who may be slow to take the rest.
	streamDelay = 30 * time.Second
	// killDelay is how long a process may take to go after SIGKILL.
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

var errTimeout = errors.New("time over")

func timedOut(ctx context.Context) bool { return errors.Is(context.Cause(ctx), errTimeout) }

func argv(c Command) []string { return append([]string{c.Path}, c.Args...) }

// run is one program while it runs.
type run struct {
	c              Command
	cmd            *exec.Cmd
	stdout, stderr *capped
	// interrupted: it was told to end.
	interrupted bool
}

func (r *run) start() error {
	cmd := exec.Command(r.c.Path, r.c.Args...)
	cmd.Env = r.c.Env
	if cmd.Env == nil {
		cmd.Env = []string{} // nil would mean this process's own
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
	var stdin io.WriteCloser
	if r.c.Stdin != nil {
		// Not cmd.Stdin: Wait would then wait for a reader that blocks.
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

// wait returns once the program is gone, having ended it when ctx did.
func (r *run) wait(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- r.cmd.Wait() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	r.interrupted = true
	r.signal(cmp.Or(r.c.Signal, syscall.SIGTERM))
	if over, err := within(done, cmp.Or(r.c.Grace, DefaultGrace)); over {
		return err
	}
	r.signal(syscall.SIGKILL)
	if over, err := within(done, killDelay); over {
		return err
	}
	return fmt.Errorf("process %d is still there after SIGKILL", r.cmd.Process.Pid)
}

func within(done <-chan error, d time.Duration) (over bool, err error) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case err := <-done:
		return true, err
	case <-t.C:
		return false, nil
	}
}

// signal reaches the whole process group. The leader has not been waited for
// yet, so that its number cannot be another's.
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
		// It ended well, but an output was not read to its end: someone that
		// it left behind holds it open, or the writer is too slow.
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

// tail is the last part of stderr, on character boundaries and trimmed.
func tail(b []byte) string {
	if len(b) > tailBytes {
		b = b[len(b)-tailBytes:]
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(b), ""))
}
