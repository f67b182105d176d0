// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"

	"botbottle.dev/bottle-operator/internal/needle"
)

// scanBuffer is how many bytes of a request's body are read at once.
const scanBuffer = 16 << 10

// requestBody is the body of a request on its way to the host. It passes on only what
// cannot be part of a known secret.
type requestBody struct {
	from io.ReadCloser
	x    *exchange
	r    *http.Request // as the server made it, with the trailers
	to   http.Header   // the trailers that are sent; nil for none

	scanner *needle.Scanner
	mem     []byte // of buf
	buf     []byte // bytes that were read and not yet passed on
	passed  int    // bytes passed on in all
	err     error  // what from returned in the end
}

func newRequestBody(x *exchange, r *http.Request) *requestBody {
	return &requestBody{from: r.Body, x: x, r: r, scanner: x.newScanner()}
}

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	for {
		if n := b.free(); n > 0 {
			n = copy(p, b.buf[:min(n, len(b.buf))])
			b.buf = b.buf[n:]
			b.passed += n
			b.x.in.Add(int64(n))
			return n, nil
		}
		if b.err != nil {
			return 0, b.err
		}
		b.fill()
	}
}

// free returns how many bytes of the buffer may be passed on.
func (b *requestBody) free() int {
	switch {
	case errors.Is(b.err, io.EOF):
		return len(b.buf)
	case b.err != nil:
		return 0
	}
	return b.scanner.Safe() - b.passed
}

func (b *requestBody) fill() {
	// What is left moves to the beginning of the memory.
	held := copy(b.mem, b.buf)
	b.mem = slices.Grow(b.mem[:held], scanBuffer)[:held+scanBuffer]
	n, err := b.from.Read(b.mem[held:])
	b.buf = b.mem[:held+n]
	d := b.x.look(b.scanner, b.buf[held:], placeBody)
	if d == nil && errors.Is(err, io.EOF) {
		d = b.endTrailers()
	}
	if d != nil {
		b.x.end(*d)
		err = errEnded
	}
	b.err = err
}

// endTrailers copies the trailers, which the server has when the body has ended.
func (b *requestBody) endTrailers() *decision {
	for name := range b.to {
		values := b.r.Trailer[name]
		for _, value := range values {
			if d := b.x.look(b.x.newScanner(), []byte(value), placeHeader); d != nil {
				return d
			}
		}
		if len(values) > 0 {
			b.to[name] = values
		}
	}
	return nil
}

// Close implements io.Closer.
func (b *requestBody) Close() error { return b.from.Close() }

// trailers returns the trailers that the request announces, without their values, and
// fills them in when the body has ended.
func (b *requestBody) trailers(announced http.Header) http.Header {
	for name := range announced {
		folded := strings.ToLower(name) // as in lookAtHead
		if b.x.mayTrail(name) && b.x.lookAtName(name) == nil && b.x.look(b.x.newScanner(), []byte(folded), placeHeader) == nil {
			if b.to == nil {
				b.to = http.Header{}
			}
			b.to[name] = nil
		}
	}
	return b.to
}
