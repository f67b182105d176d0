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

const silence = 30 * time.Second

type recordKey struct{}

// listenHTTP answers every request with the same line. A request is logged as
// it came, before it is answered; a connection without one when it ends.
func (w *world) listenHTTP(port string) error { return w.listenTCP("http", port, w.serveHTTP) }

func (w *world) serveHTTP(l net.Listener) error {
	server := &http.Server{
		Handler:     http.HandlerFunc(w.answerHTTP),
		ReadTimeout: silence,
		IdleTimeout: silence,
		ErrorLog:    log.New(io.Discard, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, recordKey{}, c)
		},
	}
	return server.Serve(&recorder{Listener: l, world: w})
}

func (w *world) answerHTTP(rw http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, most)) // what came of it is in the record
	r.Context().Value(recordKey{}).(*recorded).log()
	_, _ = io.WriteString(rw, "the outside world\n")
}

// recorder is a listener whose connections keep what came.
type recorder struct {
	net.Listener
	world *world
}

func (l *recorder) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &recorded{Conn: c, world: l.world}, nil
}

type recorded struct {
	net.Conn
	world *world

	mu     sync.Mutex
	came   []byte
	logged bool
}

func (c *recorded) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.came = append(c.came, b[:min(n, max(0, most-len(c.came)))]...)
	return n, err
}

// log writes what came since the last request.
func (c *recorded) log() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.logged = true
	c.world.log.write(entry{Proto: "tcp", Kind: "http", Local: c.LocalAddr().String(), Remote: c.RemoteAddr().String()}, c.came)
	c.came = nil
}

func (c *recorded) Close() error {
	c.mu.Lock()
	untold := !c.logged || len(c.came) > 0
	c.mu.Unlock()
	if untold {
		c.log()
	}
	return c.Conn.Close()
}
