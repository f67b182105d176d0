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
	// nameBytes is how many bytes of names each of Limits.MaxEntries allows.
	// Names are kept in memory.
	nameBytes = 256
)

// meter counts what all layers take together.
type meter struct {
	limits   Limits
	read     int64
	unpacked int64
	pending  int64 // bytes that Limits.Room was not told of
	entries  int   // with the folders that have no entry of their own
	names    int64 // bytes of all names
	above    int   // folders that are named above entries
}

// entry counts an entry, and the folders that are made for it, before it is
// unpacked. It returns how many bytes the next call of Limits.Room is about, 0 for
// none.
func (m *meter) entry(h *tar.Header, folders int) (room int64, err error) {
	if m.entries += 1 + folders; m.entries > m.limits.MaxEntries {
		return 0, ErrTooManyEntries
	}
	if m.names += int64(len(h.Name)); m.names > nameBytes*int64(m.limits.MaxEntries) {
		return 0, ErrLongNames
	}
	// The sum cannot overflow: no term is larger than the limit.
	if h.Size < 0 || h.Size > m.limits.MaxBytes {
		return 0, ErrTooLarge
	}
	if m.unpacked += h.Size; m.unpacked > m.limits.MaxBytes {
		return 0, ErrTooLarge
	}
	m.pending += h.Size - h.Size%blockSize + blockSize + int64(folders)*blockSize
	if m.pending < roomEvery {
		return 0, nil
	}
	room, m.pending = m.pending, 0
	return room, nil
}

// parents counts folders that are named for the first time.
func (m *meter) parents(added int) error {
	if m.above += added; m.above > m.limits.MaxEntries {
		return ErrTooManyEntries
	}
	return nil
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
