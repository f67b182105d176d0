// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/runner"
)

// notSpawned is the exit code for a command that does not exist in the guest. A
// container on the Reference release returns it; other releases report an error
// of their own instead.
const notSpawned = 255

// firstSizeTimeout is how long Exec waits for the first size of a terminal.
const firstSizeTimeout = 500 * time.Millisecond

// Exec implements host.Machines. The exit code is 124 if the command exceeded
// its Timeout, and 128 plus the signal's number if a signal ended it (255 on
// 0.8.0).
func (d *Driver) Exec(ctx context.Context, name string, req host.ExecRequest) (int, error) {
	what := "exec in machine " + name
	if len(req.Command) == 0 || req.Command[0] == "" {
		return 0, fmt.Errorf("%s: no command: %w", what, host.ErrInvalid)
	}
	c, release, err := d.connect(ctx, name)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	defer release()
	stderr := &tee{to: req.Stderr}
	k := call{
		what: what, args: c.execArgs(name, req), timeout: runner.NoTimeout,
		stdin: req.Stdin, stdout: cmp.Or[io.Writer](req.Stdout, io.Discard), stderr: stderr,
	}
	if req.TTY {
		stderr.to, k.stdout, k.terminal = req.Stdout, stderr, terminal(ctx, req.Resize)
	}
	if req.Timeout > 0 {
		// smolvm enforces the timeout; this one applies if it fails to.
		k.timeout = req.Timeout + time.Minute
	}
	command := d.command(k)
	command.Grace = 2 * time.Second // the guest's command ends with the client
	if err := d.cleanHome(); err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	res, err := d.runner.Run(ctx, command)
	if err == nil && res.Truncated {
		return 0, fmt.Errorf("%s: output was lost", what)
	}
	res.Stderr = stderr.tail()
	code, err := exitCode(k, res, err)
	if err != nil {
		err = d.explainUnreached(ctx, c, name, err)
	}
	return code, err
}

// explainUnreached returns the error of a call that smolvm could not carry out in a
// guest. connect may not have asked smolvm for the machine's state.
func (d *Driver) explainUnreached(ctx context.Context, c capabilities, name string, err error) error {
	if c.fewConnections || errors.Is(err, host.ErrNotRunning) || ctx.Err() != nil {
		return err
	}
	m, findErr := d.find(ctx, c, name)
	switch {
	case errors.Is(findErr, host.ErrNotFound):
		return fmt.Errorf("%w: %w", findErr, err)
	case findErr == nil && m.State != host.MachineRunning:
		return fmt.Errorf("it is %s: %w: %w", m.State, host.ErrNotRunning, err)
	}
	return err
}

// terminal returns the terminal of a command, with the first size if it comes soon: a
// client that has a window sends its size at once.
func terminal(ctx context.Context, sizes <-chan host.WindowSize) *runner.Terminal {
	t := &runner.Terminal{Columns: 80, Rows: 24}
	if sizes == nil {
		return t
	}
	t.Next = func(ctx context.Context) (columns, rows uint16, ok bool) {
		select {
		case size, ok := <-sizes:
			return size.Columns, size.Rows, ok
		case <-ctx.Done():
			return 0, 0, false
		}
	}
	first, cancel := context.WithTimeout(ctx, firstSizeTimeout)
	defer cancel()
	if columns, rows, ok := t.Next(first); ok {
		t.Columns, t.Rows = columns, rows
	}
	return t
}

// exitCode returns the command's own exit code, or the error if smolvm itself
// failed.
func exitCode(k call, res runner.Result, err error) (int, error) {
	var run *runner.Error
	if err == nil || !errors.As(err, &run) {
		return 0, err
	}
	if !run.Started || run.Err != nil {
		return 0, explain(k, res, err)
	}
	text, ok := errorMessage(res.Stderr)
	switch {
	case ok && isSmolvmError(text) && strings.Contains(text, "failed to spawn"):
		return notSpawned, nil
	case run.ExitCode == 1 && ok && isSmolvmError(text):
		return 0, k.failure(text)
	}
	return run.ExitCode, nil
}

// connect checks that the machine runs, because some releases change a machine
// that does not run. It then reserves one of the guest agent's connections,
// until the caller calls the returned function.
func (d *Driver) connect(ctx context.Context, name string) (capabilities, func(), error) {
	c, err := d.supported(ctx)
	if err == nil {
		err = checkName(name)
	}
	if err != nil {
		return c, nil, err
	}
	if !c.fewConnections && d.lives(name) {
		return c, func() {}, nil
	}
	m, err := d.find(ctx, c, name)
	if err != nil {
		return c, nil, err
	}
	if m.State != host.MachineRunning {
		return c, nil, fmt.Errorf("it is %s: %w", m.State, host.ErrNotRunning)
	}
	if !c.fewConnections {
		return c, func() {}, nil
	}
	release, err := d.execs.Acquire(ctx, name)
	return c, release, err
}

// lives reports whether a process of the machine lives. It asks only the kernel: on
// recent releases, which change no machine that does not run, that is enough to spare
// smolvm a call before each exec.
func (d *Driver) lives(name string) bool {
	g, err := d.cgroups()
	if err != nil {
		return false
	}
	populated, err := g.Populated(name)
	return err == nil && populated
}

// Copy implements host.Machines.
func (d *Driver) Copy(ctx context.Context, name, from, to string) error {
	what := "copy into machine " + name
	// smolvm splits the argument at the first colon.
	if !filepath.IsAbs(from) || !filepath.IsAbs(to) || strings.Contains(from, ":") {
		return fmt.Errorf("%s: %q to %q: both paths must be absolute, and the first must not contain a colon: %w", what, from, to, host.ErrInvalid)
	}
	c, release, err := d.connect(ctx, name)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	_, err = d.run(ctx, call{what: what, args: c.copyArgs(name, from, to), timeout: copyTimeout})
	release()
	if err != nil {
		return d.explainUnreached(ctx, c, name, err)
	}
	if c.copyMode {
		return nil
	}
	code, err := d.Exec(ctx, name, host.ExecRequest{Command: []string{"chmod", "755", to}, Timeout: time.Minute})
	if err == nil && code != 0 {
		err = fmt.Errorf("%s: chmod ended with exit code %d", what, code)
	}
	return err
}

// tailBytes is how much of a command's stderr is kept, to find smolvm's own
// error message in it.
const tailBytes = 4096

// tee passes everything on and keeps the last tailBytes.
type tee struct {
	to   io.Writer
	mu   sync.Mutex
	last []byte
}

func (t *tee) Write(p []byte) (int, error) {
	t.mu.Lock()
	t.last = append(t.last, p...)
	if over := len(t.last) - tailBytes; over > 0 {
		t.last = append([]byte(nil), t.last[over:]...)
	}
	t.mu.Unlock()
	if t.to == nil {
		return len(p), nil
	}
	return t.to.Write(p)
}

func (t *tee) tail() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]byte(nil), t.last...)
}
