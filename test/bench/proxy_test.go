// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/bundleproxy"
)

// bulk is the number of bytes that go through a tunnel in one run.
const bulk = 256 << 20

// BenchmarkProxy compares the throughput of a tunnel through the built-in bundle with
// that of a plain relay of bytes. Both run alternately over loopback.
func BenchmarkProxy(b *testing.B) {
	source := listen(b, func(conn net.Conn) {
		buf := make([]byte, 256<<10)
		for sent := 0; sent < bulk; sent += len(buf) {
			if _, err := conn.Write(buf); err != nil {
				return
			}
		}
	})
	relay := listen(b, func(conn net.Conn) {
		far, err := net.Dial("tcp", source)
		if err != nil {
			return
		}
		defer far.Close()
		_, _ = io.Copy(conn, far)
	})
	proxy := startProxy(b, source)
	tunnel := func() (net.Conn, error) {
		conn, err := net.Dial("tcp", proxy)
		if err != nil {
			return nil, err
		}
		fmt.Fprint(conn, "CONNECT bulk.test:443 HTTP/1.1\r\nHost: bulk.test:443\r\n\r\n")
		// This reader reads no further than the header.
		resp, err := http.ReadResponse(bufio.NewReaderSize(oneByte{conn}, 16), nil)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = errors.New(resp.Status)
		}
		return conn, err
	}
	var through, bare []time.Duration
	for range 7 {
		bare = append(bare, drain(b, func() (net.Conn, error) { return net.Dial("tcp", relay) }))
		through = append(through, drain(b, tunnel))
	}
	report(row{What: "bundle: throughput of a tunnel, ratio of p50 to a bare relay's", Value: ms(percentile(bare, 50)) / ms(percentile(through, 50)), Unit: "ratio", Goal: "",
		Spread: fmt.Sprintf("tunnel %s; relay %s", spread(through), spread(bare))})
	report(row{What: "  bundle: tunnel", Value: bulk / 1e6 / percentile(through, 50).Seconds(), Unit: "MB/s"})
	report(row{What: "  bare relay", Value: bulk / 1e6 / percentile(bare, 50).Seconds(), Unit: "MB/s"})
}

type oneByte struct{ io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.Reader.Read(p[:min(1, len(p))]) }

// listen serves each connection on loopback until the benchmark ends.
func listen(b *testing.B, serve func(net.Conn)) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn)
			}()
		}
	}()
	return l.Addr().String()
}

// anyName resolves every name to a documentation address. startProxy's Dial then
// connects to the source instead.
type anyName struct{}

func (anyName) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("203.0.113.10")}, nil
}

func startProxy(b *testing.B, source string) string {
	b.Helper()
	rules := filepath.Join(b.TempDir(), "egress.json")
	if err := os.WriteFile(rules, []byte(`{"version":1,"allow":["bulk.test:443"]}`), 0o600); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		ended <- bundleproxy.Run(ctx, bundleproxy.Options{
			Listen: "127.0.0.1:0", RulesPath: rules, Log: io.Discard, Resolver: anyName{},
			Dial: func(context.Context, netip.AddrPort) (*net.TCPConn, error) {
				conn, err := net.Dial("tcp", source)
				if err != nil {
					return nil, err
				}
				return conn.(*net.TCPConn), nil
			},
			Networks: func() ([]netip.Prefix, error) { return nil, nil },
			Ready:    func(a net.Addr) { ready <- a },
		})
	}()
	b.Cleanup(func() {
		cancel()
		<-ended
	})
	return (<-ready).String()
}

// drain reads bulk bytes from a connection and returns how long that took, including
// dialling.
func drain(b *testing.B, dial func() (net.Conn, error)) time.Duration {
	b.Helper()
	begin := time.Now()
	conn, err := dial()
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	n, err := io.Copy(io.Discard, conn)
	if err != nil || n != bulk {
		b.Fatalf("got %d bytes, %v, want %d", n, err, bulk)
	}
	return time.Since(begin)
}
