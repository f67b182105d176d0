// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"net"
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
}

func (c *guestConn) Close() error {
	defer c.release()
	return c.idleConn.Close()
}
