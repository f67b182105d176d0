// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	direct = "direct"
	tunnel = "tunnel"
	opened = "opened"
)

// BenchmarkStream measures the CPU time of client, bundle and server for one long
// response: without the bundle, through a tunnel, and through an opened host whose rule
// adds a credential. Other work on the machine hardly changes the ratio.
func BenchmarkStream(b *testing.B) {
	const size = 64 << 20
	ow := newOpenedWorldWith(b, func(o *Options) {
		writeNew(b, o.RulesPath, []byte(rulesFile("tunnel.example.com:443", credentialRule)))
	}, credentialRule)
	piece := []byte(strings.Repeat("data: The quick brown fox jumps over the lazy dog.\n\n", 1300)[:64<<10])
	ow.setHandler(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/event-stream")
		for sent := 0; sent < size; sent += len(piece) {
			if _, err := rw.Write(piece); err != nil {
				return
			}
		}
	})
	for _, version := range []string{"1.1", "2"} {
		b.Run("HTTP/"+version, func(b *testing.B) {
			used := map[string]time.Duration{}
			for b.Loop() {
				for _, way := range []string{direct, tunnel, opened} {
					before := processTime(b)
					if got := ow.download(b, way, version); got != size {
						b.Fatalf("%s: got %d bytes, want %d", way, got, size)
					}
					used[way] += processTime(b) - before
				}
			}
			perGB := func(d time.Duration) float64 { return d.Seconds() * 1e9 / size / float64(b.N) }
			b.ReportMetric(perGB(used[tunnel]-used[direct]), "tunnel-cpu-s/GB")
			b.ReportMetric(perGB(used[opened]-used[direct]), "opened-cpu-s/GB")
			b.ReportMetric(float64(used[tunnel])/float64(used[opened]), "ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// download gets a response on a new connection, and returns the length of its body.
func (ow *openedWorld) download(b *testing.B, way, version string) int64 {
	b.Helper()
	host, roots := "tunnel.example.com", x509.NewCertPool()
	roots.AddCert(ow.hostCA.Certificate)
	if way == opened {
		host, roots = "api.example.com", ow.guest
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: version == "2"}
	defer tr.CloseIdleConnections()
	if way == direct {
		tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", ow.server.Listener.Addr().String())
		}
	} else {
		tr.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: ow.addr})
	}
	resp, err := (&http.Client{Transport: tr}).Get("https://" + host)
	if err != nil {
		b.Fatal(way, err)
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil {
		b.Fatal(way, err)
	}
	return n
}

// processTime returns the CPU time of the process.
func processTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
