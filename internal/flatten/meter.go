// SPDX-License-Identifier: Apache-2.0

package flatten

import (
	"archive/tar"
	"io"
)

const (
	// blockSize is what a small file takes of most file systems, in bytes.
	blockSize = 4096
	// roomEvery is how many bytes are unpacked between two calls of
	// Limits.Room.
	roomEvery = 8 << 20
)

// meter counts what all layers take together.
type meter struct {
	limits   Limits
	read     int64
	unpacked int64
	pending  int64 // bytes that Limits.Room was not told of
	entries  int
}

// entry counts an entry before it is unpacked. It returns how many bytes the
// next call of Limits.Room is about, 0 for none.
func (m *meter) entry(h *tar.Header) (room int64, err error) {
	if m.entries++; m.entries > m.limits.MaxEntries {
		return 0, ErrTooManyEntries
	}
	// The sum cannot overflow: no term is larger than the limit.
	if h.Size < 0 || h.Size > m.limits.MaxBytes {
		return 0, ErrTooLarge
	}
	if m.unpacked += h.Size; m.unpacked > m.limits.MaxBytes {
		return 0, ErrTooLarge
	}
	m.pending += h.Size - h.Size%blockSize + blockSize
	if m.pending < roomEvery {
		return 0, nil
	}
	room, m.pending = m.pending, 0
	return room, nil
}

// reader counts the bytes that are read from a layer.
type reader struct {
	r io.Reader
	m *meter
}

func (r reader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if r.m.read += int64(n); r.m.read > r.m.limits.MaxBytes {
		return 0, ErrTooLarge
	}
	return n, err
}

// writer fails after a number of bytes.
type writer struct {
	w    io.Writer
	left int64
}

func (w *writer) Write(p []byte) (int, error) {
	if w.left -= int64(len(p)); w.left < 0 {
		return 0, ErrTooLarge
	}
	return w.w.Write(p)
}
