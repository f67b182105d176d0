// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/wire"
)

// session is one exec: the program and this process's ends of its descriptors.
type session struct {
	conn    *wire.Conn
	proc    *process
	stdin   *os.File // nil = the program has /dev/null
	outputs []output
	resize  func(rows, cols uint16) // nil without a terminal
}

type output struct {
	from *os.File
	kind byte
}

func (g *guestInit) exec(c *wire.Conn, r *wire.Request) {
	s := &session{conn: c}
	theirs, err := s.open(r)
	if err != nil {
		_ = c.Finish(&wire.Outcome{Error: err.Error()})
		return
	}
	s.proc, err = g.launch(r, theirs)
	theirs.close()
	if err != nil {
		s.close()
		var notFound *notFoundError
		_ = c.Finish(&wire.Outcome{Error: err.Error(), NotFound: errors.As(err, &notFound)})
		return
	}
	if r.Detach {
		s.close()
		_ = c.Finish(&wire.Outcome{PID: s.proc.pid})
		return
	}
	s.run(time.Duration(r.TimeoutMS) * time.Millisecond)
}

// open makes the program's descriptors, returns them and keeps the other ends in s.
func (s *session) open(r *wire.Request) (stdio, error) {
	if r.TTY {
		return s.openTerminal(r)
	}
	var t stdio
	var err error
	if r.Stdin {
		in, feed, err := pipe()
		if err != nil {
			return t, err
		}
		t.in, s.stdin = in, interruptible(feed)
	} else if t.in, err = os.Open("/dev/null"); err != nil {
		return t, err
	}
	for _, o := range []struct {
		to   **os.File
		kind byte
	}{{&t.out, wire.Stdout}, {&t.err, wire.Stderr}} {
		from, to, err := pipe()
		if err != nil {
			return t, err
		}
		*o.to = to
		s.outputs = append(s.outputs, output{interruptible(from), o.kind})
	}
	return t, nil
}

// pipe is like os.Pipe, but both ends are blocking, as programs expect.
func pipe() (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe"), nil
}

// interruptible replaces f with a non-blocking duplicate, so that closing it
// interrupts a pending read or write. If that fails, it returns f.
func interruptible(f *os.File) *os.File {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil || unix.SetNonblock(fd, true) != nil {
		return f
	}
	f.Close()
	return os.NewFile(uintptr(fd), "pipe")
}

// openTerminal gives the program a terminal from the guest's own /dev/pts.
func (s *session) openTerminal(r *wire.Request) (stdio, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return stdio{}, err
	}
	master := os.NewFile(uintptr(fd), "ptmx")
	s.stdin, s.outputs = master, []output{{master, wire.Stdout}}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return stdio{}, err
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return stdio{}, err
	}
	slave, err := unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return stdio{}, err
	}
	resize(fd, r.Rows, r.Cols)
	tty := os.NewFile(uintptr(slave), "tty")
	s.resize = func(rows, cols uint16) { resize(fd, rows, cols) }
	return stdio{tty, tty, tty, true}, nil
}

func resize(fd int, rows, cols uint16) {
	if rows > 0 && cols > 0 {
		_ = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	}
}

func (t stdio) close() {
	for _, f := range []*os.File{t.in, t.out, t.err} {
		f.Close()
	}
}

func (s *session) close() {
	if s.stdin != nil {
		s.stdin.Close()
	}
	for _, o := range s.outputs {
		o.from.Close()
	}
}

// run copies data until the program has ended and its output was sent. If the
// client disconnects, it kills the program.
func (s *session) run(timeout time.Duration) {
	gone := make(chan struct{})
	go s.receive(gone)
	var drained sync.WaitGroup
	for _, o := range s.outputs {
		drained.Go(func() { _, _ = io.Copy(wire.Writer{Conn: s.conn, Kind: o.kind}, o.from) })
	}
	var deadline <-chan time.Time
	if timeout > 0 {
		deadline = time.After(timeout)
	}
	out := &wire.Outcome{}
	select {
	case <-s.proc.ended:
	case <-gone:
		s.kill()
	case <-deadline:
		out.TimedOut = true
		s.kill()
	}
	<-s.proc.ended
	s.drain(&drained)
	if ws := s.proc.status; ws.Signaled() {
		out.Signal = int(ws.Signal())
	} else {
		out.Code = ws.ExitStatus()
	}
	_ = s.conn.Finish(out)
}

// drain waits for the rest of the output, but at most two seconds, because a
// grandchild may keep the pipe open.
func (s *session) drain(drained *sync.WaitGroup) {
	done := make(chan struct{})
	go func() { drained.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
	}
	s.close()
}

func (s *session) kill() { _ = syscall.Kill(-s.proc.pid, syscall.SIGKILL) }

// receive feeds the program's stdin, and closes gone when the client disconnects.
func (s *session) receive(gone chan<- struct{}) {
	defer close(gone)
	for {
		kind, b, err := s.conn.Read()
		if err != nil {
			return
		}
		switch {
		case kind == wire.Data && s.stdin != nil:
			_, _ = s.stdin.Write(b) // the program may have closed it
		case kind == wire.DataEnd && s.stdin != nil && s.resize == nil:
			s.stdin.Close()
		case kind == wire.DataEnd && s.stdin != nil:
			_, _ = s.stdin.Write([]byte{4}) // a terminal's end of input
		case kind == wire.Resize && len(b) == 4 && s.resize != nil:
			s.resize(binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]))
		}
	}
}
