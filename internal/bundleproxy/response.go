// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"compress/gzip"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"

	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/httppath"
	"botbottle.dev/bottle-operator/internal/needle"
)

var errCoding = errors.New("bundle: the response is in a coding that cannot be read")

// newReverse returns the part that forwards requests to opened hosts. It gets only
// requests that a rule lets through.
func (o *opener) newReverse() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport:      o.transport,
		FlushInterval:  -1,
		BufferPool:     copyBuffers,
		ErrorLog:       log.New(io.Discard, "", 0),
		Rewrite:        rewrite,
		ModifyResponse: func(resp *http.Response) error { return exchangeOf(resp.Request).receive(resp) },
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if d, ok := exchangeOf(r).failed(r, err); ok {
				o.p.refuse(w, r, d)
			}
		},
	}
}

// rewrite makes the request that is sent: where it was decided to go, and with the
// credential of its rule.
func rewrite(r *httputil.ProxyRequest) {
	x := exchangeOf(r.Out)
	authority := x.target.authority(x.scheme)
	r.Out.URL = &url.URL{Scheme: x.scheme, Host: authority, RawQuery: r.In.URL.RawQuery, ForceQuery: r.In.URL.ForceQuery}
	_ = httppath.Apply(r.Out.URL, x.path) // a normal form
	r.Out.Host = authority
	keepForwarded(r.Out.Header, r.In.Header)
	announced := r.Out.Trailer
	r.Out.Trailer = nil
	if x.body != nil {
		r.Out.Trailer = x.body.trailers(announced)
	}
	if x.acceptsTrailers {
		r.Out.Header.Set("Te", "trailers")
	}
	if x.header != nil {
		r.Out.Header[http.CanonicalHeaderKey(x.header.name)] = []string{x.header.value}
	}
}

// receive changes a host's response into the one that the guest gets.
func (x *exchange) receive(resp *http.Response) error {
	if x.refused.Load() != nil {
		return errEnded // a host may answer a request that broke off
	}
	resp.Status = "" // a text of the host's
	if err := checkResponse(resp); err != nil {
		return err
	}
	x.maskHeader(resp.Header)
	if resp.StatusCode == http.StatusSwitchingProtocols {
		conn, ok := resp.Body.(io.ReadWriteCloser)
		if !ok {
			return errUpgrade
		}
		resp.Body = x.newUpgraded(conn)
		return nil
	}
	if err := x.decode(resp); err != nil {
		return err
	}
	if len(resp.Trailer) > 0 {
		resp.Header.Del("Content-Length") // in HTTP/1.1, only chunks have trailers
	}
	body := &responseBody{resp: resp, x: x, read: resp.Body}
	if x.header != nil {
		body.read = x.header.mask.NewMask(resp.Body)
		for name := range resp.Trailer {
			if x.header.inName(name) {
				delete(resp.Trailer, name)
			}
		}
	}
	x.ahead = newAheadReader(struct {
		io.Reader
		io.Closer
	}{body.read, resp.Body})
	body.read, body.from = x.ahead, x.ahead
	resp.Body = body
	return nil
}

// decode takes the coding off a response that must be filtered.
func (x *exchange) decode(resp *http.Response) error {
	codings := strings.TrimSpace(strings.Join(resp.Header.Values("Content-Encoding"), ","))
	if x.header == nil || codings == "" || strings.EqualFold(codings, "identity") {
		return nil
	}
	if !strings.EqualFold(codings, "gzip") && !strings.EqualFold(codings, "x-gzip") {
		return errCoding
	}
	resp.Header.Del("Content-Encoding")
	resp.Header.Del("Content-Length")
	if resp.Body != http.NoBody && x.method != http.MethodHead {
		resp.ContentLength = -1
		resp.Body = &gzipBody{from: resp.Body}
	}
	return nil
}

// gzipBody decompresses a body. It reads nothing before it is read, because the header of
// the response must not wait for the body.
type gzipBody struct {
	from io.ReadCloser
	zr   *gzip.Reader
}

// Read implements io.Reader.
func (b *gzipBody) Read(p []byte) (int, error) {
	if b.zr == nil {
		zr, err := gzip.NewReader(b.from)
		if err != nil {
			return 0, err // io.EOF for an empty body
		}
		b.zr = zr
	}
	return b.zr.Read(p)
}

// Close implements io.Closer.
func (b *gzipBody) Close() error { return b.from.Close() }

// responseBody is the body of a response on its way to the guest.
type responseBody struct {
	resp *http.Response
	from io.Closer
	read io.Reader
	x    *exchange
}

// Read implements io.Reader.
func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.read.Read(p)
	b.x.out.Add(int64(n))
	if errors.Is(err, io.EOF) {
		if b.x.refused.Load() != nil {
			return n, errEnded // a host may end its response when its connection is ended
		}
		b.x.maskHeader(b.resp.Trailer) // complete now
	}
	return n, err
}

// Close implements io.Closer.
func (b *responseBody) Close() error { return b.from.Close() }

// maskHeader masks the credential in headers or trailers of the host.
func (x *exchange) maskHeader(h http.Header) {
	if x.header == nil {
		return
	}
	for name, values := range h {
		if x.header.inName(name) {
			delete(h, name)
			continue
		}
		for i, value := range values {
			values[i] = x.header.mask.MaskString(value)
		}
	}
}

// inName reports whether the name of a header contains the credential's value, whose case
// is lost there, or an encoding of it that does not depend on the case.
func (h *headerValue) inName(name string) bool {
	if len(h.secret) < needle.MinMasked || len(name) < len(h.secret) {
		return false
	}
	lower := strings.ToLower(name)
	return strings.Contains(lower, h.secret) || h.mask.MaskString(lower) != lower
}

// failed returns the answer to a request that the host does not answer. It reports false
// if the guest no longer waits for one.
func (x *exchange) failed(r *http.Request, err error) (decision, bool) {
	cause := egress.CauseBadAnswer
	var dial *dialError
	var timeout net.Error
	switch {
	case errors.As(err, &dial):
		cause = dial.refusal.Cause
	case errors.Is(err, errCoding):
		cause = egress.CauseCoding
	case errors.As(err, &timeout) && timeout.Timeout():
		cause = egress.CauseTimeout
	}
	d := decision{status: http.StatusBadGateway, refusal: x.refusal(cause)}
	if dial != nil {
		d.status, d.refusal.Addr, d.refusal.By = dial.status, dial.refusal.Addr, dial.refusal.By
	}
	d.reason = d.refusal.Reason()
	if x.refused.Load() == nil && r.Context().Err() != nil {
		return d, false
	}
	x.end(d)
	return *x.refused.Load(), true
}
