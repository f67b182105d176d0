// SPDX-License-Identifier: Apache-2.0

package needle

import (
	"io"
	"slices"
)

// NewMask returns a reader of r in which asterisks replace each secret of at least
// MinMasked bytes, so that the length stays the same. It holds back only a suffix of
// what it has read that is the beginning of a secret, and passes that on when r ends.
func (s *Set) NewMask(r io.Reader) io.Reader {
	return &mask{r: r, engine: s.newEngine()}
}

// MaskString returns text with asterisks in place of each secret of at least MinMasked
// bytes.
func (s *Set) MaskString(text string) string {
	e := s.newEngine()
	p := []byte(text)
	e.write(p)
	if e.cover(p, 0) {
		return string(p)
	}
	return text
}

// cover overwrites what the engine has found in p, which begins at offset base of the
// stream, and reports whether there was anything.
func (e *engine) cover(p []byte, base int64) bool {
	covered := false
	for _, o := range e.found {
		if len(o.needle.value.text) < MinMasked {
			continue
		}
		for i := o.start - base; i < o.end-base; i++ {
			p[i] = '*'
		}
		covered = true
	}
	e.found = e.found[:0]
	return covered
}

// growth is by how much the buffer of held bytes grows, if the caller's is too small.
const growth = 4 << 10

type mask struct {
	r      io.Reader
	engine engine
	buf    []byte // bytes that were read and not yet returned
	free   int    // how many of these may be returned
	base   int64  // the offset of buf in the stream
	err    error  // what r returned in the end
}

func (m *mask) Read(p []byte) (int, error) {
	for len(p) > 0 {
		if m.free > 0 {
			n := copy(p, m.buf[:m.free])
			m.buf = slices.Delete(m.buf, 0, n)
			m.free, m.base = m.free-n, m.base+int64(n)
			return n, nil
		}
		if m.err != nil {
			return 0, m.err
		}
		if len(m.buf) >= len(p) {
			m.grow()
			continue
		}
		if n := m.fill(p); n > 0 {
			return n, nil
		}
	}
	return 0, nil
}

// fill reads into p, after the bytes that were held back, and returns how many bytes of
// p may be returned. It keeps the others.
func (m *mask) fill(p []byte) int {
	old := copy(p, m.buf)
	n := m.read(p, old)
	free := n - m.held()
	m.buf = append(m.buf[:0], p[free:n]...)
	m.base += int64(free)
	return free
}

// grow reads into the buffer.
func (m *mask) grow() {
	old := len(m.buf)
	m.buf = slices.Grow(m.buf, growth)
	n := m.read(m.buf[:old+growth], old)
	m.buf = m.buf[:n]
	m.free = n - m.held()
}

// read reads into p after its first old bytes, masks all of p, and returns the number
// of bytes in it.
func (m *mask) read(p []byte, old int) int {
	n, err := m.r.Read(p[old:])
	m.err = err
	m.engine.write(p[old : old+n])
	m.engine.cover(p[:old+n], m.base)
	return old + n
}

func (m *mask) held() int {
	if m.err != nil {
		return 0
	}
	return m.engine.held()
}
