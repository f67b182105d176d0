// SPDX-License-Identifier: Apache-2.0

// Package spdyframe knows where the frames of SPDY/3.1 start and end, which both ends of
// the hop to an agent need to know. A frame has a head of 8 bytes, whose last three are
// the length of the rest.
package spdyframe

import (
	"encoding/binary"
	"io"
)

// HeadSize is the size of a frame's head, in bytes.
const HeadSize = 8

// maxHeld bounds how much of a frame Writer keeps, in bytes. It is more than the streams'
// library sends in one frame.
const maxHeld = HeadSize + 64<<10

// Writer writes frames whole. The streams' library writes each of them in three pieces or
// more, and two of these have four bytes. Under TLS each piece would be a record and a
// packet of its own, and would wake up the other end. The zero value with To is usable.
type Writer struct {
	To io.Writer

	head [HeadSize]byte
	have int // bytes of the head
	left int // bytes of the rest
	held []byte
}

// Between reports whether what was written ends with a whole frame. Nothing is held then.
func (w *Writer) Between() bool { return w.have == 0 && w.left == 0 }

// Write writes what ends a frame or is too long to be held, with what was held before. It
// holds the rest.
func (w *Writer) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	w.follow(p)
	if len(w.held)+len(p) > maxHeld {
		if err := w.flush(); err != nil {
			return 0, err
		}
		return w.To.Write(p)
	}
	if len(w.held) == 0 && w.Between() {
		return w.To.Write(p)
	}
	w.held = append(w.held, p...)
	if !w.Between() {
		return len(p), nil
	}
	if err := w.flush(); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (w *Writer) flush() error {
	if len(w.held) == 0 {
		return nil
	}
	_, err := w.To.Write(w.held)
	w.held = w.held[:0]
	return err
}

// follow keeps track of the frames in p.
func (w *Writer) follow(p []byte) {
	for len(p) > 0 {
		if w.left > 0 {
			n := min(w.left, len(p))
			w.left, p = w.left-n, p[n:]
			continue
		}
		n := copy(w.head[w.have:], p)
		w.have, p = w.have+n, p[n:]
		if w.have == HeadSize {
			w.have, w.left = 0, int(binary.BigEndian.Uint32(w.head[4:])&0xffffff)
		}
	}
}
