// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// flushAfter is how long the beginning of a line waits for its end before it is
	// logged.
	flushAfter = 500 * time.Millisecond
	// drainPatience is how long output is read after the workload has ended. What
	// still holds the other end then is a process that outlives the workload.
	drainPatience = 2 * time.Second
)

// run is one run of the workload.
type run struct {
	pid     int
	ended   <-chan syscall.WaitStatus
	stdio   *stdio
	readers sync.WaitGroup
}

// start starts the command. Its error is for startCode.
func (s *Supervisor) start(stdin string) (*run, error) {
	env := withOrdered(s.env, s.orders.Env)
	files, err := openStdio(stdin)
	defer files.closeTheirs()
	if err != nil {
		files.closeOurs()
		return nil, err
	}
	attr := &syscall.ProcAttr{Sys: &syscall.SysProcAttr{Setsid: true}}
	if files.terminal {
		attr.Sys.Setctty = true // descriptor 0
		env = withTerm(env)
	}
	attr.Env = env
	for _, f := range files.theirs {
		attr.Files = append(attr.Files, f.Fd())
	}
	r := &run{stdio: files}
	path, err := lookUp(s.argv[0], env)
	if err == nil {
		// The input must be set first: the program may ask for the terminal's size.
		s.input.set(files)
		r.pid, r.ended, err = s.children.start(path, s.argv, attr)
	}
	if err != nil {
		s.input.unset()
		files.closeOurs()
		return nil, err
	}
	for name, f := range files.outputs {
		r.readers.Go(func() { s.read(f, name) })
	}
	return r, nil
}

// read passes one stream of output on, until it ends or is closed.
func (s *Supervisor) read(f *os.File, name stream) {
	l := &lines{stream: name, log: s.log}
	defer l.flush()
	buffer := make([]byte, 32<<10)
	for {
		deadline := time.Time{}
		if len(l.pending) > 0 {
			deadline = time.Now().Add(flushAfter)
		}
		_ = f.SetReadDeadline(deadline)
		n, err := f.Read(buffer)
		if n > 0 {
			s.hub.write(name, buffer[:n])
			l.write(buffer[:n])
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			l.flush()
		case err != nil:
			return
		}
	}
}

// close reads the rest of the output and closes the run's files.
func (r *run) close(in *input) {
	in.unset()
	done := make(chan struct{})
	go func() {
		r.readers.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(drainPatience):
	}
	r.stdio.closeOurs()
	<-done
}

// signal sends a signal to the workload: the ones that ask it to end to its whole
// process group, others only to the command itself.
func (r *run) signal(sig syscall.Signal) {
	switch sig {
	case syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL:
		_ = syscall.Kill(-r.pid, sig)
	default:
		_ = syscall.Kill(r.pid, sig)
	}
}
