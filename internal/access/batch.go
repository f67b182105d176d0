// SPDX-License-Identifier: Apache-2.0

package access

import (
	"io"
	"sync"
	"time"
)

const (
	// batchSize is how much output is gathered at most before it is sent, in bytes.
	batchSize = 32 << 10
	// batchDelay is how long output waits at most for more.
	batchDelay = time.Millisecond
)

// batch gathers the output of a command that writes many small pieces. Each piece would
// otherwise be a frame of its own, which costs every hop on the way to the client as much
// as a large one. What follows a pause is sent at once: nobody waits longer for it.
type batch struct {
	to io.Writer

	mu   sync.Mutex
	held []byte
	// sent is when something was last sent, and timer sends what is held.
	sent  time.Time
	timer *time.Timer
	err   error
}

// Write implements io.Writer. Its error may be that of an earlier piece.
func (b *batch) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return 0, b.err
	}
	if len(b.held) == 0 && (len(p) >= batchSize || time.Since(b.sent) >= batchDelay) {
		b.send(p)
		return len(p), b.err
	}
	b.held = append(b.held, p...)
	if len(b.held) >= batchSize {
		b.sendHeld()
		return len(p), b.err
	}
	if b.timer == nil {
		b.timer = time.AfterFunc(batchDelay, b.flush)
	} else if len(b.held) == len(p) {
		b.timer.Reset(batchDelay)
	}
	return len(p), nil
}

// flush sends what is held.
func (b *batch) flush() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sendHeld()
}

func (b *batch) sendHeld() {
	if b.timer != nil {
		b.timer.Stop()
	}
	if len(b.held) > 0 && b.err == nil {
		b.send(b.held)
	}
	b.held = b.held[:0]
}

func (b *batch) send(p []byte) {
	_, b.err = b.to.Write(p)
	b.sent = time.Now()
}
