// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"os"
	"sync"
	"time"
)

// inputStep is how long one attempt to write input may take. In between, the client
// may go, and other clients have their turn.
const inputStep = 100 * time.Millisecond

// input is the standard input of the present run.
type input struct {
	mu   sync.Mutex
	file *os.File // nil while nothing can be written
	// over: no run reads input any more.
	over bool
	// terminal, with the size that clients last set.
	terminal   bool
	rows, cols uint16
}

// set replaces the input when a run starts.
func (in *input) set(files *stdio) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.file, in.terminal = files.input, files.terminal
	if in.terminal {
		if in.rows == 0 || in.cols == 0 {
			in.rows, in.cols = 24, 80
		}
		setSize(in.file, in.rows, in.cols)
	}
}

// unset says that the run has ended.
func (in *input) unset() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.file, in.terminal = nil, false
}

// finish makes write and end return immediately from now on.
func (in *input) finish() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.over, in.file = true, nil
}

func (in *input) resize(rows, cols uint16) {
	if rows == 0 || cols == 0 {
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.rows, in.cols = rows, cols
	if in.terminal && in.file != nil {
		setSize(in.file, rows, cols)
	}
}

// write gives data to the workload. Between two runs it waits for the next one. It
// returns early if the client goes, and discards what the workload does not want.
func (in *input) write(data []byte, gone <-chan struct{}) {
	for len(data) > 0 {
		n, again := in.tryWrite(data)
		if !again {
			return
		}
		data = data[n:]
		if n > 0 {
			continue
		}
		select {
		case <-gone:
			return
		case <-time.After(inputStep):
		}
	}
}

func (in *input) tryWrite(data []byte) (n int, again bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.over {
		return 0, false
	}
	if in.file == nil {
		return 0, true
	}
	_ = in.file.SetWriteDeadline(time.Now().Add(inputStep))
	n, err := in.file.Write(data)
	return n, err == nil || errors.Is(err, os.ErrDeadlineExceeded)
}

// end closes the workload's input, unless it is a terminal, which has no end.
func (in *input) end(gone <-chan struct{}) {
	for {
		in.mu.Lock()
		done := in.over || in.terminal
		if in.file != nil && !in.terminal {
			in.file.Close()
			in.file, done = nil, true
		}
		in.mu.Unlock()
		if done {
			return
		}
		select {
		case <-gone:
			return
		case <-time.After(inputStep):
		}
	}
}
