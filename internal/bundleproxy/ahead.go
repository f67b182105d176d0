// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"io"
	"sync"
	"sync/atomic"
)

const (
	// aheadAfter is after how many bytes of a response the next ones are read while the
	// earlier ones are written: on the way from one TLS connection to another, each piece
	// is decrypted, filtered and encrypted, which one processor does half as fast as two.
	aheadAfter = 256 << 10
	// pieceSize is the size of a piece in bytes: a record of TLS has no more.
	pieceSize = 16 << 10
	// aheadPieces is how many pieces may wait.
	aheadPieces = 6
)

var pieceBuffers = sync.Pool{New: func() any { return new([pieceSize]byte) }}

// aheadReader reads from a body, and after aheadAfter bytes in a goroutine of its own.
type aheadReader struct {
	from io.ReadCloser

	n      int              // bytes read before there is a goroutine
	pieces chan piece       // nil before there is a goroutine
	buf    *[pieceSize]byte // of the current piece; nil for none
	rest   []byte           // what is left of it
	err    error            // that ended the body, after rest
	ready  atomic.Int64     // bytes that were read ahead and not returned yet
	closed chan struct{}
	once   sync.Once
}

type piece struct {
	buf *[pieceSize]byte // from pieceBuffers
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
		pieceBuffers.Put(a.buf)
	}
	a.buf, a.rest, a.err = one.buf, one.buf[:one.n], one.err
	return one.n > 0
}

// take copies from the current piece.
func (a *aheadReader) take(p []byte) int {
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	a.ready.Add(int64(-n))
	return n
}

// hasMore reports whether the next Read returns data without waiting for the body.
func (a *aheadReader) hasMore() bool { return a.ready.Load() > 0 }

// readAhead reads until the body ends or nobody wants more of it.
func (a *aheadReader) readAhead() {
	for {
		buf := pieceBuffers.Get().(*[pieceSize]byte)
		n, err := a.from.Read(buf[:])
		a.ready.Add(int64(n))
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
