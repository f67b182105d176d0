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

// newForward is the part that moves bytes. It gets only requests that were let
// through, and dials only what was decided.
func (p *proxy) newForward() *goproxy.ProxyHttpServer {
	f := goproxy.NewProxyHttpServer()
	// Its messages hold URLs and headers.
	f.Logger = log.New(io.Discard, "", 0)
	f.KeepAcceptEncoding = true
	// The bundle's own environment leads to no other proxy.
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

// forwardPlain passes on a request that is no CONNECT: no more of it than is
// the target's business.
func (p *proxy) forwardPlain(w http.ResponseWriter, r *http.Request) {
	webSocket := r.Method == http.MethodGet && isWebSocket(r.Header)
	removeHopHeaders(r.Header)
	if webSocket {
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", "websocket")
	}
	// Some programs take what comes behind a body for headers, Host as well.
	r.Trailer = nil
	hw := &hijackableWriter{ResponseWriter: w}
	defer hw.close()
	p.forward.ServeHTTP(hw, r)
}

// hopHeaders are about one connection, the one to the bundle or the one to the
// host, and never passed on. The body's own are net/http's to handle.
var hopHeaders = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Authorization", "Proxy-Connection", "Te", "Upgrade",
}

// endHops removes what is about one connection, and what that names as such.
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

// isWebSocket says whether the header asks for, or grants, the one other
// protocol that is passed on.
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

// taken is a ResponseWriter whose connection goproxy may take over, for a
// WebSocket. It does not close what it took; this does.
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

// Unwrap is for http.ResponseController.
func (t *hijackableWriter) Unwrap() http.ResponseWriter { return t.ResponseWriter }

func (t *hijackableWriter) close() {
	if t.conn != nil {
		_ = t.conn.Close()
	}
}
