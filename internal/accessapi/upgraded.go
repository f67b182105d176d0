// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"botbottle.dev/bottle-operator/internal/spdyframe"
)

// failureTimeout bounds how long a client may take to read that its command failed.
const failureTimeout = 10 * time.Second

// upgraded is a connection to an agent that has switched protocols.
type upgraded struct {
	net.Conn
	node string
	seen *traffic
	// replay is what is read before the connection: first the agent's answer, and in
	// the end what the manager adds.
	replay *bytes.Reader
	buffer []byte
	// failed is true once the manager has added that the command failed; closed is
	// closed with the connection.
	failed bool
	closed chan struct{}
	once   sync.Once
	// ended is the error that ends the reading.
	ended error
	// requested is true once the repeated request has been swallowed; tail has the
	// end of what was swallowed so far.
	requested bool
	tail      []byte
	// broken is true once the agent takes nothing any more.
	broken atomic.Bool
	// in and out follow SPDY's frames. They are nil for a WebSocket, whose bytes are
	// only counted.
	in, out *frames
	// whole writes SPDY's frames to the connection.
	whole spdyframe.Writer
}

// Read reads what the agent sends. If the connection ends before the agent has said
// how the command ended, Read adds that it failed: clients take a connection that
// just ends for a success.
func (u *upgraded) Read(p []byte) (int, error) {
	for u.ended == nil && u.replay.Len() == 0 {
		if u.out == nil {
			n, err := u.Conn.Read(p)
			u.seen.out.Add(int64(n))
			return n, err
		}
		u.more()
	}
	if u.replay.Len() > 0 {
		return u.replay.Read(p)
	}
	if u.failed {
		// The client closes the connection once it has read all. Closed earlier, it
		// might drop the end of the output.
		select {
		case <-u.closed:
		case <-time.After(failureTimeout):
		}
	}
	return 0, u.ended
}

// Close ends a Read that waits for it.
func (u *upgraded) Close() error {
	u.once.Do(func() { close(u.closed) })
	return u.Conn.Close()
}

// more reads on to replay. The head of a frame is passed on only when it is complete.
func (u *upgraded) more() {
	if u.buffer == nil {
		u.buffer = make([]byte, frameHead+record)
	}
	held := copy(u.buffer, u.out.head[:u.out.filled])
	n, err := u.Conn.Read(u.buffer[held:])
	before, passed := *u.out, held+n
	if bad := u.out.feed(u.buffer[held:passed]); bad != nil {
		*u.out, passed, err = before, 0, bad
	} else {
		passed -= u.out.filled
	}
	all := u.buffer[:passed]
	if err != nil {
		u.ended = io.EOF
		if !u.seen.ended() {
			added := u.failure(err)
			u.failed, all = len(added) > 0, append(all, added...)
		}
	}
	u.replay.Reset(all)
}

// failure returns frames that end all streams, and that tell the client, on the error
// stream, that the connection ended. A data frame that is not complete is filled up with zeros first.
// It returns nothing if the connection ended within another frame.
func (u *upgraded) failure(err error) []byte {
	stream := u.seen.errorStream.Load()
	if stream == 0 || u.out.left > 0 && u.out.stream == 0 {
		return nil
	}
	message := "the connection to the agent of node " + u.node + " ended before the command did"
	for _, known := range []error{errFrame, errResult, errStream} {
		if errors.Is(err, known) {
			message += ": " + known.Error()
		}
	}
	body, err := json.Marshal(metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError, Code: 500, Message: message})
	if err != nil {
		return nil
	}
	out := make([]byte, u.out.left)
	u.seen.mu.Lock()
	defer u.seen.mu.Unlock()
	for _, other := range u.seen.streams {
		if other != stream {
			out = lastFrame(out, other, nil)
		}
	}
	return lastFrame(out, stream, body)
}

// lastFrame appends the data frame that ends a stream.
func lastFrame(out []byte, stream uint32, payload []byte) []byte {
	const fin = 1
	out = binary.BigEndian.AppendUint32(out, stream)
	out = binary.BigEndian.AppendUint32(out, fin<<24|uint32(len(payload))) //nolint:gosec // a short message
	return append(out, payload...)
}

// Write forwards what the client sends. When the agent no longer accepts data, Write
// discards the rest, so that the client stays until it has read how the session ended.
func (u *upgraded) Write(p []byte) (int, error) {
	swallowed := 0
	for ; !u.requested && swallowed < len(p); swallowed++ {
		u.tail = append(u.tail[max(0, len(u.tail)-3):], p[swallowed])
		u.requested = string(u.tail) == "\r\n\r\n"
	}
	rest := p[swallowed:]
	if len(rest) == 0 || u.broken.Load() {
		return len(p), nil
	}
	to := io.Writer(u.Conn)
	if u.in == nil {
		u.seen.in.Add(int64(len(rest)))
	} else if err := u.in.feed(rest); err != nil {
		return swallowed, err
	} else {
		to = &u.whole
	}
	if _, err := to.Write(rest); err != nil {
		u.broken.Store(true)
		u.Conn.Close() // Read ends now
	}
	return len(p), nil
}
