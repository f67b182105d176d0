// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// terminal is this process's side of a program's terminal.
type terminal struct {
	side   *os.File
	cancel context.CancelFunc // ends the resizing
	// drained is closed when everything that was printed has been read.
	drained chan struct{}
}

// startOnTerminal starts cmd as the leader of a session with its own terminal.
func (r *run) startOnTerminal(cmd *exec.Cmd) error {
	ours, theirs, err := pty.Open()
	if err != nil {
		return fmt.Errorf("open a terminal: %w", err)
	}
	defer theirs.Close()
	err = setSize(ours, r.c.Terminal.Columns, r.c.Terminal.Rows)
	if err == nil {
		err = makeRaw(theirs)
	}
	if err != nil {
		ours.Close()
		return fmt.Errorf("set up a terminal: %w", err)
	}
	out := cmd.Stdout
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	// A session is a process group too. Ctty is a file descriptor of the program.
	cmd.SysProcAttr.Setpgid = false
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty, cmd.SysProcAttr.Ctty = true, true, 0
	if err := startIn(r.c.NetNS, cmd.Start); err != nil {
		ours.Close()
		return err
	}
	r.cmd = cmd
	DropOOMProtection(cmd.Process.Pid)
	ctx, cancel := context.WithCancel(context.Background())
	r.terminal = &terminal{side: ours, cancel: cancel, drained: make(chan struct{})}
	go func() {
		defer close(r.terminal.drained)
		_, _ = io.Copy(out, ours) // ends with EIO when no process has the terminal any more
	}()
	if r.c.Stdin != nil {
		go func() { _, _ = io.Copy(ours, r.c.Stdin) }() // its writes fail when the program has ended
	}
	if next := r.c.Terminal.Next; next != nil {
		go func() {
			for {
				columns, rows, ok := next(ctx)
				if !ok || setSize(ours, columns, rows) != nil {
					return
				}
			}
		}()
	}
	return nil
}

// close waits until the output has been read, and closes the terminal. It returns
// exec.ErrWaitDelay if that took too long, because a process that the program left
// behind holds the terminal, or because the writer is too slow.
func (t *terminal) close(delay time.Duration) (err error) {
	t.cancel()
	wait := time.NewTimer(delay)
	defer wait.Stop()
	select {
	case <-t.drained:
	case <-wait.C:
		err = exec.ErrWaitDelay
	}
	return cmp.Or(err, t.side.Close())
}

// setSize sets the size of a terminal. It holds the file open meanwhile, so that the size
// never goes to another file that has got the same number.
func setSize(f *os.File, columns, rows uint16) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = c.Control(func(fd uintptr) {
		failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows})
	})
	return cmp.Or(err, failed)
}

// makeRaw makes a terminal pass everything on as it is, as cfmakeraw does: input that
// arrives before the program has set up the terminal is not changed or echoed.
func makeRaw(f *os.File) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = c.Control(func(fd uintptr) {
		t, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
		if err != nil {
			failed = err
			return
		}
		t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
		t.Oflag &^= unix.OPOST
		t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
		t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
		t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
		failed = unix.IoctlSetTermios(int(fd), unix.TCSETS, t)
	})
	return cmp.Or(err, failed)
}
