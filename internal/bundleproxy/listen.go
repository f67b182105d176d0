// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"bytes"
	"net"
	"slices"
	"sync"
	"time"
)

// limitedListener accepts no more connections than it has slots, and closes
// idle connections. (The listener of x/net hides that its connections can close
// one direction.)
type limitedListener struct {
	net.Listener
	silence time.Duration
	slots   chan struct{}
	closed  chan struct{}
	once    sync.Once
}

func limitListener(l net.Listener, maxConns int, silence time.Duration) *limitedListener {
	return &limitedListener{Listener: l, silence: silence, slots: make(chan struct{}, maxConns), closed: make(chan struct{})}
}

func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	p := &guestConn{release: sync.OnceFunc(func() { <-l.slots })}
	p.start(conn.(*net.TCPConn), l.silence, func() { _ = p.Close() })
	return p, nil
}

func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// guestConn is a guest's connection. It releases its slot when it is closed.
type guestConn struct {
	idleConn
	release func()
	reason  string // of the next answer; "" for the usual one
}

// setReason replaces the reason phrase of the answer that is written next. net/http
// cannot do that. The caller is the handler of the request: the server writes the
// answer after it, in the same goroutine.
func (c *guestConn) setReason(text string) { c.reason = text }

// Write replaces the reason phrase if there is one to replace. Each answer of the
// server begins with a Write of its own.
func (c *guestConn) Write(b []byte) (int, error) {
	reason := c.reason
	if reason == "" {
		return c.idleConn.Write(b) // nearly all of a stream
	}
	c.reason = ""
	line, rest, _ := bytes.Cut(b, []byte("\r\n"))
	if len(line) < len("HTTP/1.1 403") || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return c.idleConn.Write(b)
	}
	changed := slices.Concat(line[:len("HTTP/1.1 403")], []byte(" "+reason+"\r\n"), rest)
	if n, err := c.idleConn.Write(changed); err != nil {
		return min(n, len(b)), err
	}
	return len(b), nil
}

func (c *guestConn) Close() error {
	defer c.release()
	return c.idleConn.Close()
}
