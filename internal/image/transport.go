// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

const (
	dialTimeout   = 15 * time.Second
	answerTimeout = 60 * time.Second
	// stallTimeout breaks a connection that brings nothing, to be resumed.
	stallTimeout = 60 * time.Second
)

// newTransport is what one pull speaks to registries with. The caller closes
// its idle connections.
func (s *Store) newTransport() (*http.Transport, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if s.o.CAFile != "" {
		pem, err := os.ReadFile(s.o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("certificates of registries (--image-ca): %w", err)
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("certificates of registries (--image-ca): no PEM certificate in %s", s.o.CAFile)
		}
	}
	dialer := &net.Dialer{Timeout: dialTimeout}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &stallConn{Conn: conn}, nil
		},
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: answerTimeout,
		IdleConnTimeout:       answerTimeout,
		MaxIdleConnsPerHost:   4,
		ForceAttemptHTTP2:     true,
		// Blobs are wanted as they are: their digests are of the compressed
		// bytes.
		DisableCompression: true,
		ReadBufferSize:     64 << 10,
	}, nil
}

// stallConn fails a read that brings nothing for too long.
type stallConn struct{ net.Conn }

func (c *stallConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(stallTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// schemes decides alone which registries are spoken to without TLS: the
// library below would do so for every private address, and after a redirect,
// credentials included.
type schemes struct {
	inner http.RoundTripper
	plain map[string]bool
}

func (t schemes) RoundTrip(req *http.Request) (*http.Response, error) {
	want := "https"
	if t.plain[req.URL.Host] {
		want = "http"
	}
	switch req.URL.Scheme {
	case want:
	case "http", "https":
		req = req.Clone(req.Context())
		req.URL.Scheme = want
	default:
		return nil, errors.New("a registry redirects to something that is not HTTP")
	}
	return t.inner.RoundTrip(req)
}
