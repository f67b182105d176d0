// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"io"
	"sync"
)

const (
	// aheadAfter is after how many bytes of a response the next ones are read while the
	// earlier ones are written: on the way from one TLS connection to another, each piece
	// is decrypted, filtered and encrypted, which one processor does half as fast as two.
	aheadAfter = 256 << 10
	// aheadPieces is how many pieces of copyBufferSize bytes may wait.
	aheadPieces = 2
)

// aheadReader reads from a body, and after aheadAfter bytes in a goroutine of its own.
type aheadReader struct {
	from io.ReadCloser

	n      int        // bytes read before there is a goroutine
	pieces chan piece // nil before there is a goroutine
	buf    []byte     // of the current piece
	rest   []byte     // what is left of it
	err    error      // that ended the body, after rest
	closed chan struct{}
	once   sync.Once
}

type piece struct {
	buf []byte // from copyBuffers; nil for none
	n   int
	err error
}

func newAheadReader(from io.ReadCloser) *aheadReader {
	return &aheadReader{from: from, closed: make(chan struct{})}
}

// Read implements io.Reader.
func (a *aheadReader) Read(p []byte) (int, error) {
	if a.pieces == nil {
		if a.n < aheadAfter {
			n, err := a.from.Read(p)
			a.n += n
			return n, err
		}
		a.pieces = make(chan piece, aheadPieces)
		go a.readAhead()
	}
	if len(a.rest) == 0 && a.err != nil {
		return 0, a.err
	}
	if len(a.rest) == 0 && !a.next(<-a.pieces) {
		return 0, a.err
	}
	n := a.take(p)
	// Fill p with what is there already: full records of TLS cost less.
	for n < len(p) {
		select {
		case one := <-a.pieces:
			if !a.next(one) {
				return n, nil // the next Read returns the error
			}
			n += a.take(p[n:])
		default:
			return n, nil
		}
	}
	return n, nil
}

// next makes a piece the current one. It reports false if there is nothing in it.
func (a *aheadReader) next(one piece) bool {
	if a.buf != nil {
		copyBuffers.Put(a.buf)
	}
	a.buf, a.rest, a.err = one.buf, one.buf[:one.n], one.err
	return one.n > 0
}

// take copies from the current piece.
func (a *aheadReader) take(p []byte) int {
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n
}

// readAhead reads until the body ends or nobody wants more of it.
func (a *aheadReader) readAhead() {
	for {
		buf := copyBuffers.Get()
		n, err := a.from.Read(buf)
		select {
		case a.pieces <- piece{buf, n, err}:
		case <-a.closed:
			return
		}
		if err != nil {
			return
		}
	}
}

// Close implements io.Closer. It ends a Read of the body that is under way.
func (a *aheadReader) Close() error {
	a.once.Do(func() { close(a.closed) })
	return a.from.Close()
}
