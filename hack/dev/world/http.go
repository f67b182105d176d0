// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"
)

const idleTimeout = 30 * time.Second

type connKey struct{}

// listenHTTP answers every request with the same line. It logs the raw bytes of
// a request before answering it, and logs a connection without a request when
// the connection ends. With a certificate, it also serves TLS on the same port.
func (w *world) listenHTTP(port string) error {
	if w.certificate == nil {
		return w.listenTCP("http", port, w.serveHTTP)
	}
	return w.listenTCP("http", port, func(l net.Listener) error {
		s := newSniffer(l)
		w.serve("http", func() error { return w.serveHTTP(s.plain) })
		w.serve("https", func() error { return w.serveTLS(s.secure) })
		return s.run()
	})
}

func (w *world) serveHTTP(l net.Listener) error {
	server := &http.Server{
		Handler:     http.HandlerFunc(w.answerHTTP),
		ReadTimeout: idleTimeout,
		IdleTimeout: idleTimeout,
		ErrorLog:    log.New(io.Discard, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
	return server.Serve(&recordingListener{Listener: l, world: w})
}

func (w *world) answerHTTP(rw http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, maxData)) // the connection records what it reads
	r.Context().Value(connKey{}).(*recordingConn).log()
	_, _ = io.WriteString(rw, "the outside world\n")
}

// recordingListener accepts connections that record what they receive.
type recordingListener struct {
	net.Listener
	world *world
}

func (l *recordingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &recordingConn{Conn: c, world: l.world}, nil
}

type recordingConn struct {
	net.Conn
	world *world

	mu       sync.Mutex
	received []byte // since the last request was logged, at most maxData
	logged   bool
}

func (c *recordingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.received = append(c.received, b[:min(n, max(0, maxData-len(c.received)))]...)
	return n, err
}

// log writes what was received since the last request.
func (c *recordingConn) log() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.logged = true
	c.world.log.write(entry{Proto: "tcp", Kind: "http", Local: c.LocalAddr().String(), Remote: c.RemoteAddr().String()}, c.received)
	c.received = nil
}

func (c *recordingConn) Close() error {
	c.mu.Lock()
	unlogged := !c.logged || len(c.received) > 0
	c.mu.Unlock()
	if unlogged {
		c.log()
	}
	return c.Conn.Close()
}
