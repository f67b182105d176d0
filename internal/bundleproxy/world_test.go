// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// world is a proxy with one server of this process as its outside: every dial
// connects to that server and is recorded.
type world struct {
	t     testing.TB
	addr  string // of the proxy
	rules string // path
	log   *buffer
	end   context.CancelFunc
	ended chan error

	mu          sync.Mutex
	names       map[string][]netip.Addr
	lookups     []string
	dialed      []netip.AddrPort
	requests    []string // "METHOD HOST URL" as received by the server
	own         []netip.Prefix
	networksErr error // returned by networks
	// handler replaces the server's default handler if not nil.
	handler http.HandlerFunc
}

func newWorld(t testing.TB, rules ...string) *world {
	return newWorldWith(t, func(*Options) {}, rules...)
}

func newWorldWith(t testing.TB, change func(*Options), rules ...string) *world {
	w := &world{t: t, rules: filepath.Join(t.TempDir(), "egress.json"), log: &buffer{}, ended: make(chan error, 1)}
	w.names = map[string][]netip.Addr{
		"api.example.com.":      {netip.MustParseAddr("203.0.113.10")},
		"tunnel.example.com.":   {netip.MustParseAddr("203.0.113.12")},
		"gateway.example.com.":  {netip.MustParseAddr("192.168.44.1")},
		"inside.example.com.":   {netip.MustParseAddr("10.0.0.5")},
		"loop.example.com.":     {netip.MustParseAddr("127.0.0.1")},
		"metadata.example.com.": {netip.MustParseAddr("169.254.169.254")},
		"mixed.example.com.":    {netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("203.0.113.11")},
	}
	server := httptest.NewServer(http.HandlerFunc(w.serve))
	t.Cleanup(server.Close)
	if rules != nil {
		w.writeRules(rules...)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w.end = cancel
	ready := make(chan net.Addr, 1)
	o := Options{
		Listen: "127.0.0.1:0", RulesPath: w.rules, Log: w.log, Resolver: w, Networks: w.networks,
		Dial: func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
			w.mu.Lock()
			w.dialed = append(w.dialed, addr)
			w.mu.Unlock()
			return dialTCP(ctx, netip.MustParseAddrPort(server.Listener.Addr().String()))
		},
		Ready: func(a net.Addr) { ready <- a },
	}
	change(&o)
	go func() { w.ended <- Run(ctx, o) }()
	select {
	case a := <-ready:
		w.addr = a.String()
	case err := <-w.ended:
		t.Fatalf("run: %v", err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-w.ended; err != nil {
			t.Errorf("run: got %v, want nil", err)
		}
	})
	return w
}

func (w *world) serve(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	w.requests = append(w.requests, r.Method+" "+r.Host+" "+r.URL.String())
	handler := w.handler
	w.mu.Unlock()
	if handler != nil {
		handler(rw, r)
		return
	}
	fmt.Fprintf(rw, "hello from %s", r.Host)
}

func (w *world) setHandler(handler http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handler = handler
}

// networks returns the proxy's own networks.
func (w *world) networks() ([]netip.Prefix, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.own, w.networksErr
}

func (w *world) setNetworks(err error, own ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.own, w.networksErr = nil, err
	for _, p := range own {
		w.own = append(w.own, netip.MustParsePrefix(p))
	}
}

// LookupNetIP implements Resolver.
func (w *world) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lookups = append(w.lookups, host)
	if addrs, ok := w.names[strings.ToLower(host)]; ok {
		return addrs, nil
	}
	if strings.HasPrefix(host, "slow.") {
		return nil, &net.DNSError{Err: "i/o timeout", Name: host, IsTimeout: true}
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func (w *world) writeRules(rules ...string) {
	w.t.Helper()
	b, err := json.Marshal(map[string]any{"version": 1, "allow": append([]string{}, rules...)})
	if err != nil {
		w.t.Fatal(err)
	}
	w.replaceRules(string(b))
}

// replaceRules renames a new file into place, as the agent does.
func (w *world) replaceRules(content string) {
	w.t.Helper()
	tmp := w.rules + ".tmp"
	if err := os.WriteFile(tmp, []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(tmp, w.rules); err != nil {
		w.t.Fatal(err)
	}
}

// roundTrip sends raw text to the proxy and returns the first response.
func (w *world) roundTrip(raw string) (status int, body string) {
	w.t.Helper()
	conn := w.connect()
	defer conn.Close()
	if _, err := io.WriteString(conn, raw); err != nil {
		w.t.Fatal(err)
	}
	return w.readResponse(bufio.NewReader(conn))
}

func (w *world) connect() net.Conn {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

func (w *world) readResponse(r *bufio.Reader) (status int, body string) {
	w.t.Helper()
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		w.t.Fatalf("read answer: %v", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK && resp.ContentLength < 0 && len(resp.TransferEncoding) == 0 {
		return resp.StatusCode, "" // a tunnel
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatalf("read answer: %v", err)
	}
	return resp.StatusCode, string(b)
}

// tunnel opens a tunnel to the target through the proxy.
func (w *world) tunnel(target string) (net.Conn, *bufio.Reader) {
	w.t.Helper()
	conn := w.connect()
	r := bufio.NewReader(conn)
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target)
	if status, body := w.readResponse(r); status != http.StatusOK {
		w.t.Fatalf("CONNECT %s: got %d %q, want 200", target, status, body)
	}
	return conn, r
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: got no, want yes within 30 s; log:\n%s", what, w.log.String())
		}
	}
}

func get(url string) string {
	host := strings.TrimPrefix(strings.TrimPrefix(url, "http://"), "https://")
	host, _, _ = strings.Cut(host, "/")
	return fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", url, host)
}

func connect(target string) string {
	return fmt.Sprintf("CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target)
}

// buffer is a bytes.Buffer that is safe for concurrent use.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// procAddr formats an IPv4 address as in /proc/net/tcp.
func procAddr(a net.Addr) string {
	at := netip.MustParseAddrPort(a.String())
	b := at.Addr().As4()
	return fmt.Sprintf("%02X%02X%02X%02X:%04X", b[3], b[2], b[1], b[0], at.Port())
}
