// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"k8s.io/utils/clock"
)

const (
	dialTimeout   = 15 * time.Second
	answerTimeout = 60 * time.Second
	// stallTimeout is how long a connection may bring no data. It is then
	// closed, and the read resumes on another.
	stallTimeout = 60 * time.Second
	// minPace is how many bytes of a blob must arrive per minute, on average.
	// paceGrace is the time that does not count, for example of connections
	// that stalled and were replaced.
	minPace   = 1 << 20
	paceGrace = 2 * stallTimeout
)

// newTransport returns the transport of one attempt to pull. The caller closes
// its idle connections.
func (s *registries) newTransport() (*guardedTransport, error) {
	roots, err := s.authorities()
	if err != nil {
		return nil, err
	}
	d := newDialer(s.addresses())
	direct := &http.Transport{
		DialContext:           d.dial,
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: answerTimeout,
		IdleConnTimeout:       answerTimeout,
		MaxIdleConnsPerHost:   4,
		ForceAttemptHTTP2:     true,
		// Blobs must not be decompressed: their digests are of the compressed
		// bytes.
		DisableCompression: true,
		ReadBufferSize:     64 << 10,
	}
	proxied := direct.Clone()
	proxied.Proxy = s.proxy
	proxied.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &stallConn{Conn: conn}, nil
	}
	return &guardedTransport{dialer: d, direct: direct, proxied: proxied, proxy: s.proxy}, nil
}

// authorities returns the certificates that are trusted for registries.
func (s *registries) authorities() (*x509.CertPool, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if s.o.CAFile == "" {
		return roots, nil
	}
	pem, err := os.ReadFile(s.o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("certificates of registries (--image-ca): %w", err)
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("certificates of registries (--image-ca): no PEM certificate in %s", s.o.CAFile)
	}
	return roots, nil
}

// stallConn fails a read that brings no data for too long.
type stallConn struct{ net.Conn }

func (c *stallConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(stallTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// pacedContent abandons blobs that arrive so slowly that they only keep a slot
// from others. Without it, a blob with a byte now and then would be resumed
// forever.
type pacedContent struct {
	source
	clock clock.PassiveClock
	waits *waitingTransport
}

func (p pacedContent) blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	return p.blobFrom(ctx, d, 0)
}

// blobFrom implements source.
func (p pacedContent) blobFrom(ctx context.Context, d v1.Descriptor, offset int64) (io.ReadCloser, error) {
	body, err := p.source.blobFrom(ctx, d, offset)
	if err != nil {
		return nil, err
	}
	return &pacedReader{ReadCloser: body, size: d.Size - offset, clock: p.clock, waits: p.waits}, nil
}

type pacedReader struct {
	io.ReadCloser
	clock   clock.PassiveClock
	waits   *waitingTransport
	size, n int64
	// waited is the time spent in reads. It excludes the time of a slow local
	// disk, and the waits that a server asked for.
	waited time.Duration
}

func (p *pacedReader) Read(b []byte) (int, error) {
	start, asked := p.clock.Now(), p.waits.totalWait()
	n, err := p.ReadCloser.Read(b)
	p.waited += p.clock.Since(start) - (p.waits.totalWait() - asked)
	p.n += int64(n)
	if err == nil && p.n < p.size && float64(p.n) < (p.waited-paceGrace).Minutes()*minPace {
		err = ownErrorf("the pull was too slow: got %s of a blob of %s in %s, want at least %s a minute: check the connection to it, or configure a mirror with --image-mirror",
			bytesText(p.n), bytesText(p.size), p.waited.Round(time.Second), bytesText(minPace))
	}
	return n, err
}

// schemeTransport is the only place that decides which registries are accessed
// without TLS. The library would do so for every private address and after a
// redirect, and would send credentials there.
type schemeTransport struct {
	inner http.RoundTripper
	plain map[string]bool
}

func (t schemeTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	scheme := "https"
	if t.plain[req.URL.Host] {
		scheme = "http"
	}
	upgraded := req.URL.Scheme == "http" && scheme == "https"
	switch req.URL.Scheme {
	case scheme:
	case "http", "https":
		req = req.Clone(req.Context())
		req.URL.Scheme = scheme
	default:
		return nil, ownErrorf("the registry redirects to a URL that is not HTTP")
	}
	resp, err := t.inner.RoundTrip(req)
	if err != nil && upgraded {
		return nil, &upgradedError{err}
	}
	return resp, err
}
