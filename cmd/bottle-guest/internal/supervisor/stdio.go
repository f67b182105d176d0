// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/supervise"
)

// Streams of a workload.
type stream byte

const (
	stdout stream = iota
	stderr
	streams
)

var streamNames = [streams]string{"stdout", "stderr"}

// stdio has both ends of a run's descriptors.
type stdio struct {
	// theirs are the workload's standard input, output and errors. The supervisor
	// closes its copies once the workload has started.
	theirs [3]*os.File
	// input is nil if the workload's input is closed. A terminal is both input and
	// the only output.
	input    *os.File
	outputs  map[stream]*os.File
	terminal bool
}

// openStdio opens what a workload with this kind of standard input needs. The caller
// must call closeTheirs and closeOurs, also after an error.
func openStdio(stdin string) (*stdio, error) {
	s := &stdio{outputs: map[stream]*os.File{}}
	if stdin == supervise.StdinTerminal {
		return s, s.openTerminal()
	}
	if err := s.openInput(stdin); err != nil {
		return s, err
	}
	for _, o := range []stream{stdout, stderr} {
		ours, theirs, err := pipe()
		if err != nil {
			return s, err
		}
		s.theirs[1+o] = theirs
		if s.outputs[o], err = pollable(ours); err != nil {
			return s, err
		}
	}
	return s, nil
}

// openInput opens a pipe that stays open, or one that is already closed: not every
// guest has a /dev/null.
func (s *stdio) openInput(stdin string) error {
	theirs, ours, err := pipe()
	if err != nil {
		return err
	}
	s.theirs[0] = theirs
	if stdin != supervise.StdinOpen {
		return ours.Close()
	}
	s.input, err = pollable(ours)
	return err
}

// openTerminal opens a new terminal.
func (s *stdio) openTerminal() error {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a terminal: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		unix.Close(fd)
		return fmt.Errorf("unlock the terminal: %w", err)
	}
	other, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	ours, err := pollable(os.NewFile(uintptr(fd), "terminal"))
	if err != nil {
		return err
	}
	s.input, s.outputs[stdout], s.terminal = ours, ours, true
	if errno != 0 {
		return fmt.Errorf("open the terminal's other end: %w", errno)
	}
	theirs := os.NewFile(other, "terminal")
	s.theirs = [3]*os.File{theirs, theirs, theirs}
	return nil
}

func (s *stdio) closeTheirs() {
	for _, f := range s.theirs {
		if f != nil {
			f.Close() // of a terminal, only the first one has an effect
		}
	}
}

func (s *stdio) closeOurs() {
	if s.input != nil {
		s.input.Close()
	}
	for _, f := range s.outputs {
		f.Close()
	}
}

// pipe is like os.Pipe, but both ends are blocking, as programs expect.
func pipe() (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe"), nil
}

// pollable returns f as a file that has deadlines. It must be used instead of f.
func pollable(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	f.Close()
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "pipe"), nil
}

// setSize sets the size of a terminal, if it is one.
func setSize(f *os.File, rows, cols uint16) {
	raw, err := f.SyscallConn()
	if err != nil || rows == 0 || cols == 0 {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
}
