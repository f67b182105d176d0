// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"bufio"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"strings"

	"github.com/elazarl/goproxy"
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
	f.ConnectDialWithReq = func(r *http.Request, _, _ string) (net.Conn, error) { return p.dial(r.Context()) }
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
			return goproxy.NewResponse(ctx.Req, goproxy.ContentTypeText, http.StatusBadGateway, "bundle: the host does not answer properly\n")
		}
		if resp.StatusCode != http.StatusSwitchingProtocols {
			removeHopHeaders(resp.Header)
		}
		return resp
	})
	return f
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
	hw := &hijackableWriter{ResponseWriter: w}
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

// hijackableWriter is a ResponseWriter that lets goproxy hijack the connection
// for a WebSocket. goproxy does not close a hijacked connection, so close does.
type hijackableWriter struct {
	http.ResponseWriter
	conn net.Conn
}

// Hijack implements http.Hijacker.
func (t *hijackableWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(t.ResponseWriter).Hijack()
	t.conn = conn
	return conn, rw, err
}

// Flush implements http.Flusher.
func (t *hijackableWriter) Flush() { _ = http.NewResponseController(t.ResponseWriter).Flush() }

// Unwrap is used by http.ResponseController.
func (t *hijackableWriter) Unwrap() http.ResponseWriter { return t.ResponseWriter }

func (t *hijackableWriter) close() {
	if t.conn != nil {
		_ = t.conn.Close()
	}
}
