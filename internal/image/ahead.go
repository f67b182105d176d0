// SPDX-License-Identifier: Apache-2.0

package image

import (
	"io"
	"sync"
)

const (
	copyBuffer  = 256 << 10
	aheadChunks = 8
)

// aheadReader reads from another reader in its own goroutine, a bounded number
// of bytes ahead, so that the network, hashing, unpacking and the disk do not
// wait for each other at every step.
type aheadReader struct {
	chunks, free chan []byte
	failed       chan error // receives the final error before chunks is closed
	stop         chan struct{}
	once         sync.Once
	done         chan struct{}

	current, buffer []byte
	err             error
}

// readAhead starts to read from r. stopReading ends it, and returns once r is
// no longer being read. A blocked read of r must end by itself or when its
// context is cancelled.
func readAhead(r io.Reader) *aheadReader {
	a := &aheadReader{
		chunks: make(chan []byte, aheadChunks), free: make(chan []byte, aheadChunks),
		failed: make(chan error, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	for range aheadChunks {
		a.free <- make([]byte, copyBuffer)
	}
	go a.run(r)
	return a
}

func (a *aheadReader) run(r io.Reader) {
	defer close(a.done)
	defer close(a.chunks)
	for {
		var buf []byte
		select {
		case buf = <-a.free:
		case <-a.stop:
			return
		}
		n, err := fillBuffer(r, buf)
		if n > 0 {
			a.chunks <- buf[:n] // never blocks: there is room for every buffer
		}
		if err != nil {
			a.failed <- err
			return
		}
	}
}

// fillBuffer is like io.ReadFull, but returns the error of r unchanged.
func fillBuffer(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

// fill waits until current is not empty, or sets err.
func (a *aheadReader) fill() {
	for len(a.current) == 0 && a.err == nil {
		if a.buffer != nil {
			a.free <- a.buffer[:cap(a.buffer)]
			a.buffer = nil
		}
		chunk, ok := <-a.chunks
		if !ok {
			select {
			case a.err = <-a.failed:
			default:
				a.err = io.ErrClosedPipe // stopped meanwhile
			}
			return
		}
		a.current, a.buffer = chunk, chunk
	}
}

func (a *aheadReader) Read(p []byte) (int, error) {
	a.fill()
	if len(a.current) == 0 {
		return 0, a.err
	}
	n := copy(p, a.current)
	a.current = a.current[n:]
	return n, nil
}

// Peek returns up to n of the bytes that Read returns next.
func (a *aheadReader) Peek(n int) ([]byte, error) {
	a.fill()
	if len(a.current) == 0 {
		return nil, a.err
	}
	return a.current[:min(n, len(a.current))], nil
}

func (a *aheadReader) stopReading() {
	a.once.Do(func() { close(a.stop) })
	<-a.done
}
