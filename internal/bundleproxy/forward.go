// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"

	"botbottle.dev/bottle-operator/internal/egress"
)

// newPlainTransport returns the transport of plain requests. It dials only the
// addresses that were decided on, and uses no other proxy.
func (p *proxy) newPlainTransport() *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			u, err := p.dial(ctx)
			if err != nil {
				return nil, err
			}
			return u, nil
		},
		DisableCompression:     true,
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        p.limits.keepAlive,
		MaxResponseHeaderBytes: maxHeader,
	}
}

// newForward returns the part that forwards plain requests. It gets only allowed
// requests.
func (p *proxy) newForward() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport: p.plain,
		// The response may be a stream, whatever its type says.
		FlushInterval: -1,
		BufferPool:    copyBuffers,
		// Discard its messages, because they contain URLs and headers.
		ErrorLog: log.New(io.Discard, "", 0),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.RawQuery = r.In.URL.RawQuery // as the guest wrote it
			keepForwarded(r.Out.Header, r.In.Header)
		},
		ModifyResponse: checkResponse,
		ErrorHandler:   p.answerFailure,
	}
}

var errUpgrade = errors.New("bundle: the host switches to a protocol that was not requested")

// checkResponse removes from a host's response what does not concern the guest.
func checkResponse(resp *http.Response) error {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		if !isWebSocket(resp.Header) || !isWebSocket(resp.Request.Header) {
			return errUpgrade
		}
		removeClaims(resp.Header)
		return nil
	}
	removeClaims(resp.Header)
	removeHopHeaders(resp.Header)
	return nil
}

// answerFailure answers a request that the target does not answer.
func (p *proxy) answerFailure(w http.ResponseWriter, r *http.Request, err error) {
	t, _ := r.Context().Value(targetKey{}).(target)
	var d decision
	var dial *dialError
	var timeout net.Error
	switch {
	case errors.As(err, &dial):
		d = dial.decision
	case errors.As(err, &timeout) && timeout.Timeout():
		d = fail(t, egress.CauseTimeout)
	default:
		d = fail(t, egress.CauseBadAnswer)
	}
	if r.Context().Err() == nil && d.status != http.StatusForbidden { // the guest still waits, and revoke has not logged it
		p.log.decision(t, d)
	}
	writeRefusal(w, d)
}

// forwardPlain forwards a request other than CONNECT, without the parts that do
// not concern the target.
func (p *proxy) forwardPlain(w http.ResponseWriter, r *http.Request) {
	keepWebSocket(r)
	// Some programs treat trailers as headers, including Host.
	r.Trailer = nil
	// The host may answer before it has the whole request. Without this, the server
	// reads the rest of the request first.
	_ = http.NewResponseController(w).EnableFullDuplex()
	p.forward.ServeHTTP(&guestWriter{ResponseWriter: w}, r)
}
