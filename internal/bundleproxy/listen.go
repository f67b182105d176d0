// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"net"
	"sync"
	"time"
)

// limited is a listener that accepts no more connections than it has places,
// and ends those on which nothing moves. (x/net's own would hide that its
// connections can end one direction.)
type limited struct {
	net.Listener
	silence time.Duration
	places  chan struct{}
	closed  chan struct{}
	once    sync.Once
}

func limit(l net.Listener, most int, silence time.Duration) *limited {
	return &limited{Listener: l, silence: silence, places: make(chan struct{}, most), closed: make(chan struct{})}
}

func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	p := &placed{leave: sync.OnceFunc(func() { <-l.places })}
	p.start(conn.(*net.TCPConn), l.silence, func() { _ = p.Close() })
	return p, nil
}

func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// placed is a guest's connection, which gives its place back when it is closed.
type placed struct {
	timed
	leave func()
}

func (c *placed) Close() error {
	defer c.leave()
	return c.timed.Close()
}
