// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"net"
	"sync"
	"time"
)

const (
	// clientQueue is the number of frames that wait for a client.
	clientQueue = 32
	// aliveEvery is how often a client is checked.
	aliveEvery = 2 * time.Second
	// lastPatience is how long a client may take to read the rest of the output
	// after the workload has ended for good.
	lastPatience = 30 * time.Second
)

// client is the supervisor's end of one attached client.
type client struct {
	conn  net.Conn
	queue chan frame
	gone  chan struct{} // closed when the client is not served any more
	once  sync.Once
	// mayWrite: the client asked to send input.
	mayWrite bool
}

func newClient(conn net.Conn) *client {
	return &client{conn: conn, queue: make(chan frame, clientQueue), gone: make(chan struct{})}
}

// drop ends the service of the client.
func (c *client) drop() {
	c.once.Do(func() {
		close(c.gone)
		c.conn.Close()
	})
}

// send queues a frame. It drops a client that does not read.
func (c *client) send(f frame) {
	select {
	case c.queue <- f:
		return
	case <-c.gone:
		return
	default:
	}
	late := time.NewTimer(clientPatience)
	defer late.Stop()
	select {
	case c.queue <- f:
	case <-c.gone:
	case <-late.C:
		c.drop()
	}
}

// serve sends first and then what is queued, until the workload has ended for good or
// the client is gone.
func (c *client) serve(first []piece) {
	defer c.drop()
	for _, p := range first {
		if writeFrame(c.conn, frame{kindOf(p.stream), p.data}) != nil {
			return
		}
	}
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	for {
		f := frame{kind: kindAlive}
		select {
		case f = <-c.queue:
		case <-alive.C:
		case <-c.gone:
			return
		}
		if f.kind == kindEnd {
			_ = c.conn.SetWriteDeadline(time.Now().Add(lastPatience))
		}
		if writeFrame(c.conn, f) != nil || f.kind == kindEnd {
			return
		}
	}
}

// listen receives what the client sends.
func (c *client) listen(in *input) {
	for {
		f, err := readFrame(c.conn)
		if err != nil {
			c.drop()
			return
		}
		switch f.kind {
		case kindStdin:
			if c.mayWrite {
				in.write(f.payload, c.gone)
			}
		case kindStdinEnd:
			if c.mayWrite {
				in.end(c.gone)
			}
		case kindResize:
			in.resize(f.size())
		}
	}
}
