// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"time"

	"botbottle.dev/bottle-operator/internal/egress"
)

const (
	// handshakeTimeout is for the TLS handshake with a host.
	handshakeTimeout = 10 * time.Second
	// continueTimeout is how long a host may take to say that it wants a request's body,
	// if the guest waits for that.
	continueTimeout = time.Second
	// resolvedFor is how long the addresses of an opened connection may be dialled. The
	// connection to the host usually follows at once, or else after a long time.
	resolvedFor = 10 * time.Second
)

// upstreamTransport sends the requests to opened hosts, in the version of HTTP that the
// guest speaks: what works without the bundle works with it, and a large response over
// HTTP/1.1 takes half the time of one over HTTP/2.
type upstreamTransport struct{ http1, http2 *http.Transport }

func newUpstreamTransport(p *proxy) *upstreamTransport {
	transport := func(protocols ...string) *http.Transport {
		return &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				u, err := p.dialOpened(ctx)
				if err != nil {
					return nil, err
				}
				return u, nil
			},
			DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				c, err := p.dialTLS(ctx, protocols)
				if err != nil {
					return nil, err
				}
				return c, nil
			},
			DisableCompression:     true,
			MaxIdleConns:           64,
			MaxIdleConnsPerHost:    8,
			IdleConnTimeout:        p.limits.keepAlive,
			ExpectContinueTimeout:  continueTimeout,
			MaxResponseHeaderBytes: maxHeader,
			HTTP2:                  &http.HTTP2Config{MaxReceiveBufferPerStream: downloadBuffer, MaxReadFrameSize: maxFrame},
		}
	}
	// A host need not have HTTP/2, because the guest cannot see whether it has.
	t := &upstreamTransport{http1: transport("http/1.1"), http2: transport("h2", "http/1.1")}
	t.http2.ForceAttemptHTTP2 = true
	return t
}

// RoundTrip implements http.RoundTripper.
func (t *upstreamTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if x := exchangeOf(r); x != nil && x.http2 {
		return t.http2.RoundTrip(r)
	}
	return t.http1.RoundTrip(r)
}

func (t *upstreamTransport) closeIdle() {
	t.http1.CloseIdleConnections()
	t.http2.CloseIdleConnections()
}

// dialOpened connects to the host of an opened connection. It looks the host up again if
// the addresses are old.
func (p *proxy) dialOpened(ctx context.Context) (*upstream, error) {
	t, ok := ctx.Value(targetKey{}).(target)
	if !ok {
		return nil, errors.New("bundle: nothing was decided about this connection")
	}
	if time.Since(t.resolved) > resolvedFor {
		var d decision
		if t.addrs, d = p.resolve(ctx, p.rules.current(), t); !d.allowed {
			return nil, &dialError{d}
		}
	}
	return p.dial(withTarget(ctx, t))
}

// dialTLS connects to the host of an opened connection, and checks its certificate.
func (p *proxy) dialTLS(ctx context.Context, protocols []string) (*tls.Conn, error) {
	u, err := p.dialOpened(ctx)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(u, &tls.Config{
		ServerName: canonicalHost(u.target.host),
		RootCAs:    p.roots.pool(),
		MinVersion: tls.VersionTLS12,
		NextProtos: protocols,
	})
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		u.end()
		return nil, &dialError{fail(u.target, handshakeCause(err))}
	}
	return conn, nil
}

func handshakeCause(err error) egress.Cause {
	var untrusted *tls.CertificateVerificationError
	var timeout net.Error
	switch {
	case errors.As(err, &untrusted):
		return egress.CauseUpstreamCertificate
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return egress.CauseTimeout
	}
	return egress.CauseBadAnswer
}
