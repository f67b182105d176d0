// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"io"
	"sync"
)

// capped keeps the first max bytes and drops the rest, so that the writer never
// blocks. It can be read while it is still being written.
type capped struct {
	mu   sync.Mutex
	max  int
	kept []byte
	over bool
}

func (c *capped) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(p), c.max-len(c.kept))
	c.kept = append(c.kept, p[:n]...)
	c.over = c.over || n < len(p)
	return len(p), nil
}

func (c *capped) bytes() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]byte(nil), c.kept...)
}

func (c *capped) cut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over
}

// drain accepts all output even after w has failed. Otherwise the pipe would be
// closed and the program would die.
type drain struct {
	w      io.Writer
	failed bool
}

func (d *drain) Write(p []byte) (int, error) {
	if !d.failed {
		if _, err := d.w.Write(p); err != nil {
			d.failed = true
		}
	}
	return len(p), nil
}
