// SPDX-License-Identifier: Apache-2.0

package access

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"botbottle.dev/bottle-operator/internal/garbage"
	"botbottle.dev/bottle-operator/internal/spdyframe"
	"botbottle.dev/bottle-operator/internal/tcpstate"
)

// lingerTimeout is how long a connection that this side has ended waits for the end of
// the other side.
const lingerTimeout = 5 * time.Second

// stateInterval is how often the state of a connection is looked at.
const stateInterval = time.Second

// record is how much a TLS record carries at most, and one read returns, in bytes.
const record = 16 << 10

// pingInterval is how often a client is pinged.
const pingInterval = 5 * time.Second

// hijacker lets a handler take over its connection, and calls gone when the client goes.
type hijacker struct {
	http.ResponseWriter
	ctx  context.Context // of the session
	gone func()
	// streams is how many streams the client must open, and started is closed once the
	// command has them.
	streams int
	started chan struct{}
	conn    *watchedConn // once it is taken over
}

// Hijack implements http.Hijacker.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	taker, ok := h.ResponseWriter.(http.Hijacker)
	if !ok {
		return nil, nil, errors.New("the connection cannot be taken over")
	}
	conn, buffered, err := taker.Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.conn = &watchedConn{Conn: conn, gone: h.gone, frames: spdyframe.Writer{To: conn}}
	go h.conn.keep(h.ctx)
	go tcpstate.Watch(h.ctx, conn, stateInterval, h.gone)
	// The server's own reader bypasses the watch.
	rest := io.LimitReader(buffered.Reader, int64(buffered.Reader.Buffered()))
	reader := bufio.NewReader(&gate{
		in: bufio.NewReaderSize(io.MultiReader(rest, h.conn), record), streams: h.streams, until: time.Now().Add(openTimeout),
		started: h.started, ended: h.ctx.Done(), refuse: h.gone,
	})
	return h.conn, bufio.NewReadWriter(reader, bufio.NewWriter(h.conn)), nil
}

// close ends the connection, unless nobody took it over.
func (h *hijacker) close() {
	if h.conn != nil {
		_ = h.conn.Close() // never fails
	}
}

// watchedConn calls gone once its client is gone or the connection has failed.
type watchedConn struct {
	net.Conn
	gone   func()
	ending atomic.Bool
	once   sync.Once

	writing sync.Mutex
	frames  spdyframe.Writer // to Conn
}

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.failed()
	}
	return n, err
}

func (c *watchedConn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	n, err := c.frames.Write(p)
	if err != nil {
		c.failed()
	}
	return n, err
}

// keep pings the client until ctx ends: the kernel of a client that is gone then breaks
// the connection off. Nothing else shows that while the guest does not read its input,
// because nobody reads from the connection then.
func (c *watchedConn) keep(ctx context.Context) {
	ping := time.NewTicker(pingInterval)
	defer ping.Stop()
	for id := uint32(2); ; id += 2 { // a server's pings are even
		select {
		case <-ctx.Done():
			return
		case <-ping.C:
		}
		if !c.writing.TryLock() {
			continue // something is on its way
		}
		var err error
		if c.frames.Between() {
			_, err = c.Conn.Write(pingFrame(id))
		}
		c.writing.Unlock()
		if err != nil {
			c.failed()
			return
		}
	}
}

// pingFrame returns a ping of SPDY/3.1.
func pingFrame(id uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{0x80, 3, 0, 6, 0, 0, 0, 4}, id)
}

func (c *watchedConn) failed() {
	c.gone()
	if c.ending.Load() {
		c.once.Do(func() { c.Conn.Close() })
	}
}

// Close is called when the session has ended, or by the streams' connection, when the
// client has ended that. It ends this side, and waits in the background for the end of the other one: if the
// client is still sending, an immediate end would destroy what it has not yet read.
func (c *watchedConn) Close() error {
	c.gone()
	if c.ending.Swap(true) {
		return nil
	}
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || c.SetReadDeadline(time.Now().Add(lingerTimeout)) != nil {
		c.once.Do(func() { c.Conn.Close() })
		return nil
	}
	// Somebody may be reading still, or not.
	go func() {
		_, _ = io.Copy(io.Discard, c.Conn)
		c.once.Do(func() { c.Conn.Close() })
	}()
	return nil
}

// countReader and countWriter count what passes.
type countReader struct {
	io.Reader
	n *atomic.Int64
}

func (c countReader) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	garbage.Moved(c.n.Add(int64(n)), n)
	return n, err
}

type countWriter struct {
	io.Writer
	n *atomic.Int64
}

func (c countWriter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	garbage.Moved(c.n.Add(int64(n)), n)
	return n, err
}
