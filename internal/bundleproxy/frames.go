// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"encoding/binary"

	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/needle"
)

const (
	// maxHeldFrames is how many bytes may wait for the rest of what may be a known
	// secret. A guest could send any number of empty frames meanwhile.
	maxHeldFrames = 4 << 20
)

// frameFilter finds known secrets in the messages that a guest sends over a WebSocket
// (RFC 6455). A client masks its frames with keys of its choice, so a search in the
// stream itself would find nothing. A secret that spans two messages is not found.
type frameFilter struct {
	x *exchange

	header  []byte // of the current frame, as far as it was read
	left    uint64 // bytes of the current frame's payload that are to come
	key     [4]byte
	at      int  // place in key of the next byte
	last    bool // the current frame ends its message
	control bool // the current frame is not part of a message

	message *needle.Scanner // of the current message
	aside   *needle.Scanner // of the current control frame
	asideAt int             // where in raw its payload begins
	n       int             // bytes of the current message so far

	raw   []byte // what was written and not yet passed on
	marks []frameMark
}

// frameMark says where in raw the payload of a frame begins.
type frameMark struct{ message, raw int }

func newFrameFilter(x *exchange) *frameFilter {
	return &frameFilter{x: x, message: x.newScanner()}
}

// write takes the next bytes of the guest's stream. It returns those that may be passed
// on, or why the stream must end.
func (f *frameFilter) write(p []byte) ([]byte, *decision) {
	for len(p) > 0 {
		if f.left == 0 {
			f.raw = append(f.raw, p[0])
			f.header = append(f.header, p[0])
			p = p[1:]
			f.startFrame()
			continue
		}
		n := int(min(f.left, uint64(len(p))))
		if d := f.payload(p[:n]); d != nil {
			return nil, d
		}
		p = p[n:]
	}
	if len(f.raw) > maxHeldFrames {
		d := deny(f.x.refusal(egress.CauseBadAnswer))
		return nil, &d
	}
	return f.raw[:f.free()], nil
}

// startFrame begins the payload when the header is complete.
func (f *frameFilter) startFrame() {
	h := f.header
	if len(h) < 2 {
		return
	}
	masked, length, at := h[1]&0x80 != 0, uint64(h[1]&0x7f), 2
	switch length {
	case 126:
		at = 4
	case 127:
		at = 10
	}
	size := at
	if masked {
		size += len(f.key)
	}
	if len(h) < size {
		return
	}
	switch length {
	case 126:
		length = uint64(binary.BigEndian.Uint16(h[2:]))
	case 127:
		length = binary.BigEndian.Uint64(h[2:])
	}
	f.key, f.at = [4]byte{}, 0
	copy(f.key[:], h[at:size])
	f.last, f.control = h[0]&0x80 != 0, h[0]&0x08 != 0
	f.header, f.left = f.header[:0], length
	switch {
	case f.control:
		f.aside, f.asideAt = f.x.newScanner(), len(f.raw)
	case length > 0:
		f.marks = append(f.marks, frameMark{f.n, len(f.raw)})
	}
	f.endFrame()
}

// payload takes the next bytes of the current frame's payload.
func (f *frameFilter) payload(p []byte) *decision {
	f.raw = append(f.raw, p...)
	text := make([]byte, len(p))
	for i := range p {
		text[i] = p[i] ^ f.key[f.at]
		f.at = (f.at + 1) % len(f.key)
	}
	f.left -= uint64(len(p))
	scanner := f.message
	if f.control {
		scanner = f.aside
	} else {
		f.n += len(p)
	}
	if d := f.x.look(scanner, text, placeBody); d != nil {
		return d
	}
	f.endFrame()
	return nil
}

// endFrame ends the message if its last frame is complete.
func (f *frameFilter) endFrame() {
	if f.left == 0 && f.last && !f.control {
		f.message, f.n, f.marks = f.x.newScanner(), 0, nil
	}
}

// free returns how many bytes of raw may be passed on. Control frames are short and pass as
// a whole.
func (f *frameFilter) free() int {
	if f.control && f.left > 0 {
		return min(f.asideAt, f.freeMessage(f.asideAt))
	}
	return f.freeMessage(len(f.raw))
}

// freeMessage is free for messages, if all of them is in the first end bytes of raw.
func (f *frameFilter) freeMessage(end int) int {
	safe := f.message.Safe()
	if safe == f.n {
		return end
	}
	for i := len(f.marks) - 1; i >= 0; i-- {
		if m := f.marks[i]; m.message <= safe {
			return max(0, m.raw+safe-m.message) // some of it may be passed on already
		}
	}
	return 0
}

// drop forgets the first n bytes of raw, which have been passed on.
func (f *frameFilter) drop(n int) {
	if n == 0 {
		return
	}
	f.asideAt -= n
	f.raw = f.raw[n:] // append moves it when it needs more room
	for i := range f.marks {
		f.marks[i].raw -= n // may become negative: the frame began earlier
	}
	// Only the last mark whose payload began before what is kept is needed, and those
	// after it.
	for len(f.marks) > 1 && f.marks[1].raw <= 0 {
		f.marks = f.marks[1:]
	}
}
