// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/egress"
)

const (
	// maxStreams is how many requests a guest may have under way in one connection of
	// HTTP/2.
	maxStreams = 100
	// The next ones are how many bytes of a slow reader's data the bundle keeps: of one
	// request and of one connection of a guest, and of one response.
	uploadBuffer     = 256 << 10
	uploadConnBuffer = 512 << 10
	downloadBuffer   = 1 << 20
	// maxFrame is the size of the largest frame of HTTP/2 in bytes, by its RFC.
	maxFrame = 16 << 10
)

// opener opens the connections of a guest to hosts that have rules: it ends the TLS of
// the guest, and inspects the requests.
type opener struct {
	p         *proxy
	server    *http.Server
	queue     *connQueue
	transport *upstreamTransport
	reverse   *httputil.ReverseProxy
	// slots bounds the requests under way.
	slots chan struct{}

	mu    sync.Mutex
	conns map[*openedConn]struct{}
	under map[*exchange]struct{} // way
}

func newOpener(p *proxy) *opener {
	o := &opener{
		p: p, queue: newConnQueue(), slots: make(chan struct{}, maxConns),
		conns: map[*openedConn]struct{}{}, under: map[*exchange]struct{}{},
	}
	o.transport = newUpstreamTransport(p)
	o.reverse = o.newReverse()
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	o.server = &http.Server{
		Handler:                      http.HandlerFunc(o.serve),
		ReadHeaderTimeout:            p.limits.readHeader,
		IdleTimeout:                  p.limits.keepAlive,
		MaxHeaderBytes:               maxHeader,
		DisableGeneralOptionsHandler: true,
		Protocols:                    &protocols,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams, MaxReadFrameSize: maxFrame,
			MaxReceiveBufferPerStream: uploadBuffer, MaxReceiveBufferPerConnection: uploadConnBuffer,
		},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, openedKey{}, c.(*tls.Conn).NetConn())
		},
		// Discard its messages, because they may contain what a guest sent.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	return o
}

type openedKey struct{}

// openedConn is the connection of a guest that the bundle opens.
type openedConn struct {
	halfConn
	from   io.Reader // the connection, after what was read from it already
	target target
	o      *opener
	cork   cork
}

// Read implements net.Conn.
func (c *openedConn) Read(b []byte) (int, error) { return c.from.Read(b) }

// Write implements net.Conn.
func (c *openedConn) Write(b []byte) (int, error) { return c.cork.write(c.halfConn, b) }

// Close implements net.Conn.
func (c *openedConn) Close() error {
	c.o.mu.Lock()
	delete(c.o.conns, c)
	c.o.mu.Unlock()
	return c.halfConn.Close()
}

// open ends the TLS of a guest's connection to a target, and lets the server serve it.
func (o *opener) open(w http.ResponseWriter, r *http.Request, t target) {
	// A machine's start makes a new authority, and the guest may be faster than the next
	// poll.
	o.p.broker.pollCA()
	if o.p.broker.leaves.Load() == nil {
		d := reject(t, egress.CauseCredentialMissing)
		o.p.log.decision(t, d)
		o.p.refuse(w, r, d)
		return
	}
	guest, early, err := takeOver(w)
	if err != nil {
		return // the guest's connection is gone
	}
	c := &openedConn{halfConn: guest, from: guest, target: t, o: o}
	if len(early) > 0 {
		c.from = io.MultiReader(strings.NewReader(string(early)), guest)
	}
	o.mu.Lock()
	o.conns[c] = struct{}{}
	o.mu.Unlock()
	if conn, ok := o.handshake(c); !ok || !o.queue.put(conn) {
		_ = c.Close()
	}
}

// handshake makes a TLS connection out of the guest's. If that fails, it logs what the
// guest did not do as it should.
func (o *opener) handshake(c *openedConn) (*tls.Conn, bool) {
	mismatch := false
	conn := tls.Server(c, &tls.Config{
		MinVersion:             tls.VersionTLS12,
		NextProtos:             []string{"h2", "http/1.1"},
		SessionTicketsDisabled: true,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			host := canonicalHost(c.target.host)
			_, err := netip.ParseAddr(host)
			if canonicalHost(hello.ServerName) != host && (hello.ServerName != "" || err != nil) {
				mismatch = true
				return nil, errMismatch
			}
			l := o.p.broker.leaves.Load()
			if l == nil {
				return nil, errors.New("bundle: there is no authority")
			}
			return l.get(host)
		},
	})
	ctx, cancel := context.WithTimeout(context.Background(), o.p.limits.readHeader)
	defer cancel()
	err := conn.HandshakeContext(ctx)
	var notTLS tls.RecordHeaderError
	switch {
	case err == nil:
		return conn, true
	case mismatch:
		o.p.log.decision(c.target, reject(c.target, egress.CauseHostMismatch))
	case errors.As(err, &notTLS) && notTLS.Conn != nil:
		d := reject(c.target, egress.CauseNeedsTLS)
		o.p.log.decision(c.target, d)
		writeRawRefusal(c, d)
	}
	return nil, false
}

var errMismatch = errors.New("bundle: the names of the host disagree")

// writeRawRefusal answers a guest that speaks HTTP without TLS in a tunnel. Another
// protocol's client shows it as a broken answer.
func writeRawRefusal(c net.Conn, d decision) {
	text := "bundle: " + d.refusal.String() + "\n"
	_ = c.SetWriteDeadline(time.Now().Add(rawRefusalTimeout))
	fmt.Fprintf(c, "HTTP/1.1 %d %s\r\n", d.status, http.StatusText(d.status))
	h := refusalHeader(d, d.refusal.String())
	h.Set("Connection", "close")
	h.Set("Content-Length", fmt.Sprint(len(text)))
	_ = h.Write(c)
	fmt.Fprintf(c, "\r\n%s", text)
}

// rawRefusalTimeout is how long a guest may take to read a refusal outside of TLS.
const rawRefusalTimeout = 2 * time.Second

// canonicalHost returns the one form of a host that names are compared in.
func canonicalHost(host string) string {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if inner, ok := strings.CutPrefix(host, "["); ok {
		host = strings.TrimSuffix(inner, "]")
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap().String()
	}
	return host
}

// revoke ends what the rules no longer allow: connections to hosts that are no longer
// allowed or no longer opened, and requests that no longer match the rule that let them
// through.
func (o *opener) revoke() {
	o.transport.closeIdle()
	set := o.p.rules.current()
	o.mu.Lock()
	var conns []*openedConn
	for c := range o.conns {
		if _, ok := set.Match(c.target.host, c.target.port); !ok || !set.Opens(c.target.host, c.target.port) {
			conns = append(conns, c)
		}
	}
	var revoked []*exchange
	for x := range o.under {
		if !x.stillAllowed(set) {
			revoked = append(revoked, x)
		}
	}
	o.mu.Unlock()
	for _, x := range revoked {
		x.revoke()
	}
	for _, c := range conns {
		_ = c.Close()
	}
}

// shutDown waits for the requests under way, and closes them after shutdownGrace.
func (o *opener) shutDown() {
	_ = shutDown(o.server)
	_ = o.queue.Close()
	o.transport.closeIdle()
	o.mu.Lock()
	conns := make([]*openedConn, 0, len(o.conns))
	for c := range o.conns {
		conns = append(conns, c)
	}
	o.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

// connQueue is a net.Listener of connections that were accepted elsewhere.
type connQueue struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newConnQueue() *connQueue {
	return &connQueue{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// put reports false if the queue is closed.
func (q *connQueue) put(c net.Conn) bool {
	select {
	case q.conns <- c:
		return true
	case <-q.closed:
		return false
	}
}

// Accept implements net.Listener.
func (q *connQueue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (q *connQueue) Close() error {
	q.once.Do(func() { close(q.closed) })
	return nil
}

// Addr implements net.Listener.
func (q *connQueue) Addr() net.Addr { return &net.TCPAddr{} }
