// SPDX-License-Identifier: Apache-2.0

package access

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"time"
)

const (
	// openTimeout is how long a client may take to open its streams. It is shorter than
	// streamTimeout: a stream that came after that would be waited for without end.
	openTimeout = streamTimeout - 10*time.Second
	// maxControlFrame bounds a control frame, whose headers are compressed, in bytes.
	maxControlFrame = 4 << 10
	// maxDataFrame bounds a data frame in bytes. The streams' library reads each frame
	// into memory, and queues many. Clients send at most 32 KiB at a time.
	maxDataFrame = 256 << 10
)

// Types of SPDY's control frames.
const (
	synStream    = 1
	rstStream    = 3
	settings     = 4
	ping         = 6
	goAway       = 7
	windowUpdate = 9
)

var errFrames = errors.New("the client sent frames that belong to no session")

// gate passes on the SPDY frames that a session needs. With others, a client could
// block the streams' library for ever, or fill the memory: the library waits without
// end for somebody who takes a stream that is not expected, or headers, or data of a
// stream that nobody reads yet.
type gate struct {
	in *bufio.Reader
	// streams is how many streams the client may still open, before until.
	streams int
	until   time.Time
	// started is closed once the command has its streams, and ended when the session has
	// ended.
	started, ended <-chan struct{}
	refuse         func() // ends the session

	header  [8]byte
	pending []byte // of the header, still to be passed on
	left    int    // bytes of the frame after the header
	err     error
}

func (g *gate) Read(p []byte) (int, error) {
	if len(g.pending) == 0 && g.left == 0 && g.err == nil {
		g.err = g.next()
	}
	if g.err != nil {
		return 0, g.err
	}
	if len(g.pending) > 0 {
		n := copy(p, g.pending)
		g.pending = g.pending[n:]
		return n, nil
	}
	n, err := g.in.Read(p[:min(len(p), g.left)])
	g.left -= n
	return n, err
}

// next reads the header of a frame, and waits until the frame may pass.
func (g *gate) next() error {
	if _, err := io.ReadFull(g.in, g.header[:]); err != nil {
		return err
	}
	length := int(binary.BigEndian.Uint32(g.header[4:]) & 0xffffff)
	if !g.allows(length) {
		g.refuse()
		return errFrames
	}
	if !g.control() && length > 0 {
		select {
		case <-g.started:
		case <-g.ended:
			return io.EOF
		}
	}
	g.pending, g.left = g.header[:], length
	return nil
}

func (g *gate) control() bool { return g.header[0]&0x80 != 0 }

func (g *gate) allows(length int) bool {
	if !g.control() {
		return length <= maxDataFrame
	}
	switch binary.BigEndian.Uint16(g.header[2:4]) {
	case synStream:
		g.streams--
		return length <= maxControlFrame && g.streams >= 0 && time.Now().Before(g.until)
	case rstStream, settings, ping, goAway, windowUpdate:
		return length <= maxControlFrame
	}
	return false
}
