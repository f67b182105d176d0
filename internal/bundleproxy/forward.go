// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"

	"github.com/elazarl/goproxy"

	"botbottle.dev/bottle-operator/internal/egress"
)

// newForward returns the part that forwards bytes. It gets only allowed
// requests, and dials only the addresses that were decided on.
func (p *proxy) newForward() *goproxy.ProxyHttpServer {
	f := goproxy.NewProxyHttpServer()
	// Discard its messages, because they contain URLs and headers.
	f.Logger = log.New(io.Discard, "", 0)
	f.KeepAcceptEncoding = true
	// Do not use another proxy from the bundle's environment.
	f.ConnectDial = nil
	f.ConnectDialWithReq = func(r *http.Request, _, _ string) (net.Conn, error) { return takeDialed(r.Context()) }
	f.Tr = &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return p.dial(ctx) },
		DisableCompression:     true,
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        p.limits.keepAlive,
		MaxResponseHeaderBytes: maxHeader,
	}
	f.OnResponse().DoFunc(func(resp *http.Response, ctx *goproxy.ProxyCtx) *http.Response {
		if resp == nil || resp.StatusCode == http.StatusSwitchingProtocols && !isWebSocket(ctx.Req.Header) {
			return p.failedResponse(ctx)
		}
		removeClaims(resp.Header)
		if resp.StatusCode != http.StatusSwitchingProtocols {
			removeHopHeaders(resp.Header)
		}
		return resp
	})
	return f
}

// failedResponse answers a plain request that the target does not answer.
func (p *proxy) failedResponse(ctx *goproxy.ProxyCtx) *http.Response {
	t, _ := ctx.Req.Context().Value(targetKey{}).(target)
	var d decision
	var dial *dialError
	var timeout net.Error
	switch {
	case errors.As(ctx.Error, &dial):
		d = dial.decision // dial has logged it
	case errors.As(ctx.Error, &timeout) && timeout.Timeout():
		d = fail(t, egress.CauseTimeout)
	default:
		d = fail(t, egress.CauseBadAnswer)
	}
	if dial == nil && ctx.Req.Context().Err() == nil { // otherwise the guest no longer waits
		p.log.decision(t, d)
	}
	text := d.refusal.String()
	resp := goproxy.NewResponse(ctx.Req, goproxy.ContentTypeText, d.status, "bundle: "+text+"\n")
	maps.Copy(resp.Header, refusalHeader(d, text))
	return resp
}

// forwardConnect opens a tunnel. It dials first: after that, goproxy answers 200, or
// closes the connection without the reason.
func (p *proxy) forwardConnect(w http.ResponseWriter, r *http.Request, t target) {
	conn, err := p.dial(r.Context())
	if err != nil {
		d := fail(t, egress.CauseBadAnswer)
		var dial *dialError
		if errors.As(err, &dial) {
			d = dial.decision
		}
		p.refuse(w, r, d)
		return
	}
	dialed := &dialedConn{conn: conn}
	p.forward.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), dialedKey{}, dialed)))
	if conn := dialed.take(); conn != nil {
		_ = conn.Close() // the guest's connection was gone
	}
}

type dialedKey struct{}

// dialedConn is the connection for a tunnel until goproxy takes it.
type dialedConn struct {
	mu   sync.Mutex
	conn net.Conn
}

func (d *dialedConn) take() net.Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	conn := d.conn
	d.conn = nil
	return conn
}

func takeDialed(ctx context.Context) (net.Conn, error) {
	if d, ok := ctx.Value(dialedKey{}).(*dialedConn); ok {
		if conn := d.take(); conn != nil {
			return conn, nil
		}
	}
	return nil, errors.New("bundle: there is no connection for this tunnel")
}

// forwardPlain forwards a request other than CONNECT, without the parts that do
// not concern the target.
func (p *proxy) forwardPlain(w http.ResponseWriter, r *http.Request) {
	webSocket := r.Method == http.MethodGet && isWebSocket(r.Header)
	removeHopHeaders(r.Header)
	if webSocket {
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", "websocket")
	}
	// Some programs treat trailers as headers, including Host.
	r.Trailer = nil
	// The host may answer before it has the whole request. Without this, the server
	// reads the rest of the request first.
	_ = http.NewResponseController(w).EnableFullDuplex()
	hw := &streamWriter{ResponseWriter: w}
	defer hw.close()
	p.forward.ServeHTTP(hw, r)
}

// hopHeaders concern a single connection, either to the bundle or to the host,
// and are never forwarded. net/http handles those of the body itself.
var hopHeaders = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Authorization", "Proxy-Connection", "Te", "Upgrade",
}

// removeHopHeaders removes hopHeaders and the headers that Connection names.
func removeHopHeaders(h http.Header) {
	for _, value := range h.Values("Connection") {
		for name := range strings.SplitSeq(value, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range hopHeaders {
		h.Del(name)
	}
}

// isWebSocket reports whether the header requests or accepts WebSocket, the
// only protocol upgrade that is forwarded.
func isWebSocket(h http.Header) bool {
	return hasToken(h.Values("Connection"), "upgrade") && hasToken(h.Values("Upgrade"), "websocket")
}

func hasToken(values []string, token string) bool {
	for _, value := range values {
		for part := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

// streamWriter is a ResponseWriter that passes the header and each write on at once:
// the response may be a stream, whatever its type says. It also lets goproxy hijack
// the connection for a WebSocket. goproxy does not close a hijacked connection, so
// close does.
type streamWriter struct {
	http.ResponseWriter
	conn net.Conn
}

// WriteHeader implements http.ResponseWriter.
func (t *streamWriter) WriteHeader(status int) {
	t.ResponseWriter.WriteHeader(status)
	if status != http.StatusSwitchingProtocols { // goproxy hijacks the connection next
		t.Flush()
	}
}

// Write implements http.ResponseWriter.
func (t *streamWriter) Write(b []byte) (int, error) {
	n, err := t.ResponseWriter.Write(b)
	if err == nil {
		err = http.NewResponseController(t.ResponseWriter).Flush()
	}
	return n, err
}

// Hijack implements http.Hijacker.
func (t *streamWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(t.ResponseWriter).Hijack()
	t.conn = conn
	return conn, rw, err
}

// Flush implements http.Flusher.
func (t *streamWriter) Flush() { _ = http.NewResponseController(t.ResponseWriter).Flush() }

// Unwrap is used by http.ResponseController.
func (t *streamWriter) Unwrap() http.ResponseWriter { return t.ResponseWriter }

func (t *streamWriter) close() {
	if t.conn != nil {
		_ = t.conn.Close()
	}
}
