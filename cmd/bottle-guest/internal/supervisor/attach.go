// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// dialPatience is how long to wait for a supervisor that is starting.
	dialPatience = 5 * time.Second
	// goneDelay delays the end of the input. When the connection of whoever attached
	// breaks, its input ends shortly before this process is killed; that must not
	// close the workload's input.
	goneDelay = 300 * time.Millisecond
)

// AttachOptions say how to attach.
type AttachOptions struct {
	In string
	// Stdin forwards the standard input. TTY forwards the size of the terminal that
	// the standard input is, and puts it into raw mode.
	Stdin, TTY bool
}

// Attach connects this process's standard streams to the workload's, until the
// workload has ended for good. It returns the workload's exit code.
func Attach(o AttachOptions) (int, error) {
	conn, err := dial(o.In, request{Op: opAttach, Stdin: o.Stdin})
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	to := &frameWriter{conn: conn}
	if o.TTY {
		restore := followTerminal(os.Stdin, to)
		defer restore()
	}
	if o.Stdin {
		go forward(os.Stdin, to)
	}
	last, err := receive(conn, os.Stdout, os.Stderr)
	return last.exitCode(), err
}

// Stop ends the workload for good: with SIGTERM, and after the grace with SIGKILL. It
// returns once the workload has ended.
func Stop(in string, grace time.Duration) error {
	conn, err := dial(in, request{Op: opStop, GraceMillis: grace.Milliseconds()})
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = receive(conn, io.Discard, io.Discard)
	return err
}

func dial(in string, r request) (net.Conn, error) {
	orders, err := readOrders(in)
	if err != nil {
		return nil, fmt.Errorf("orders: %w", err)
	}
	deadline := time.Now().Add(dialPatience)
	for {
		conn, err := net.DialUnix("unix", nil, address(orders.Start))
		if err == nil {
			return conn, writeFrame(conn, jsonFrame(kindRequest, r))
		}
		if time.Now().After(deadline) {
			return nil, errors.New("no supervisor runs in this guest")
		}
		<-time.After(50 * time.Millisecond)
	}
}

// receive copies output until the last frame.
func receive(conn net.Conn, out, errs io.Writer) (outcome, error) {
	for {
		f, err := readFrame(conn)
		if err != nil {
			return outcome{}, errors.New("the supervisor closed the connection: it ended, or the output was not read fast enough")
		}
		switch f.kind {
		case kindStdout:
			_, err = out.Write(f.payload)
		case kindStderr:
			_, err = errs.Write(f.payload)
		case kindEnd:
			var last outcome
			if err := json.Unmarshal(f.payload, &last); err != nil {
				return outcome{}, err
			}
			if last.Error != "" {
				return outcome{}, errors.New(last.Error)
			}
			return last, nil
		}
		if err != nil {
			return outcome{}, err
		}
	}
}

// frameWriter lets several goroutines send frames.
type frameWriter struct {
	mu   sync.Mutex
	conn net.Conn
}

func (w *frameWriter) write(f frame) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return writeFrame(w.conn, f)
}

// forward sends the input and then its end.
func forward(from io.Reader, to *frameWriter) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && to.write(frame{kindStdin, buffer[:n]}) != nil {
			return
		}
		if errors.Is(err, io.EOF) {
			<-time.After(goneDelay)
			_ = to.write(frame{kind: kindStdinEnd})
			return
		}
		if err != nil {
			return
		}
	}
}

// followTerminal puts a terminal into raw mode and sends its size, now and whenever it
// changes. The caller must call restore. It does nothing if f is no terminal.
func followTerminal(f *os.File, to *frameWriter) (restore func()) {
	fd := int(f.Fd())
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return func() {}
	}
	raw := *old
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	_ = unix.IoctlSetTermios(fd, unix.TCSETS, &raw)
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	go func() {
		for ; ; <-changed {
			if size, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil {
				_ = to.write(resizeFrame(size.Row, size.Col))
			}
		}
	}()
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, old) }
}
