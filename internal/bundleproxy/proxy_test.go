// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestDecisions(t *testing.T) {
	rules := []string{
		"api.example.com:80", "api.example.com:443", "inside.example.com:80", "inside.example.com:8443", "10.0.0.5:8443",
		"loop.example.com:80", "metadata.example.com:80", "mixed.example.com:80", "gone.example.com:80", "203.0.113.77:80", "*.wild.example.com",
	}
	const noRule = "no egress rule allows this host and port"
	tests := map[string]struct {
		raw    string
		status int
		body   string // part of it
		dialed string // "" for none
	}{
		"allowed":                                  {get("http://api.example.com/x"), 200, "hello from api.example.com", "203.0.113.10:80"},
		"allowed by CONNECT":                       {connect("api.example.com:443"), 200, "", "203.0.113.10:443"},
		"allowed, capitals and a dot":              {get("http://API.example.com./x"), 200, "hello from API.example.com.", "203.0.113.10:80"},
		"allowed address":                          {get("http://203.0.113.77/"), 200, "hello", "203.0.113.77:80"},
		"private by address rule":                  {connect("inside.example.com:8443"), 200, "", "10.0.0.5:8443"},
		"forbidden addresses left out, IPv4 first": {get("http://mixed.example.com/"), 200, "hello", "203.0.113.11:80"},
		"Host header names another host": {
			"GET http://api.example.com/ HTTP/1.1\r\nHost: evil.example.com\r\n\r\n", 200, "hello from api.example.com", "203.0.113.10:80",
		},
		"Host header names an allowed host": {
			"GET http://evil.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 403, noRule, "",
		},
		"CONNECT with another Host": {
			"CONNECT evil.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\n\r\n", 403, noRule, "",
		},
		"other host":            {get("http://evil.example.com/x"), 403, noRule, ""},
		"other port":            {get("http://api.example.com:8080/"), 403, noRule, ""},
		"other port by CONNECT": {connect("api.example.com:22"), 403, noRule, ""},
		"name as user":          {"GET http://api.example.com@evil.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 403, noRule, ""},
		"no port in CONNECT":    {connect("api.example.com"), 403, "no valid port", ""},
		"port 0":                {connect("api.example.com:0"), 403, "no valid port", ""},
		"port too high":         {connect("api.example.com:65979"), 403, "no valid port", ""}, // 443 + 65536
		"empty port":            {get("http://api.example.com:/"), 403, "no valid port", ""},
		"parent of a wildcard":  {connect("wild.example.com:443"), 403, noRule, ""},
		"private":               {get("http://inside.example.com/"), 403, "10.0.0.5 is private", ""},
		"loopback":              {get("http://loop.example.com/"), 403, "can never be reached: it is loopback", ""},
		"metadata":              {get("http://metadata.example.com/"), 403, "can never be reached", ""},
		"metadata address":      {get("http://169.254.169.254/latest/"), 403, "169.254.169.254 can never be reached: it is link-local", ""},
		"loopback address":      {connect("127.0.0.1:8888"), 403, "127.0.0.1 can never be reached: it is loopback", ""},
		"loopback, mapped":      {connect("[::ffff:127.0.0.1]:8888"), 403, "127.0.0.1 can never be reached: it is loopback", ""},
		"link-local with zone":  {connect("[fe80::1%25eth0]:80"), 403, noRule, ""},
		"CONNECT with a body":   {"CONNECT api.example.com:443 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 400, "CONNECT takes no body", ""},
		"CONNECT with chunks":   {"CONNECT api.example.com:443 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "CONNECT takes no body", ""},
		"HTTP/2":                {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 403, "this is a proxy", ""},
		"address in disguise":   {get("http://0x7f.1/"), 403, noRule, ""},
		"https by the proxy":    {get("https://api.example.com/x"), 403, "use CONNECT", ""},
		"not a proxy request":   {"GET /metrics HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 403, "this is a proxy", ""},
		"CONNECT to a path":     {"CONNECT /x HTTP/1.1\r\nHost: api.example.com:443\r\n\r\n", 403, "no valid port", ""},
		"OPTIONS *":             {"OPTIONS * HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 403, "this is a proxy", ""},
		"does not resolve":      {get("http://gone.example.com/"), 502, "does not resolve", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rules...)
			status, body := w.roundTrip(tt.raw)
			if status != tt.status || !strings.Contains(body, tt.body) {
				t.Errorf("answer: got %d %q, want %d with %q", status, body, tt.status, tt.body)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if got := strings.Trim(fmt.Sprint(w.dialed), "[]"); got != tt.dialed {
				t.Errorf("dialled: got %q, want %q", got, tt.dialed)
			}
			if status == 403 && strings.Contains(body, noRule) && len(w.lookups) > 0 {
				t.Errorf("resolved: got %q, want no lookup of a name that is not allowed", w.lookups)
			}
		})
	}
}

func TestRequestHeaderTooLarge(t *testing.T) {
	w := newWorld(t, "api.example.com:80")
	raw := "GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\nX: " + strings.Repeat("x", maxHeader+8192) + "\r\n\r\n"
	if status, _ := w.roundTrip(raw); status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("answer: got %d, want %d", status, http.StatusRequestHeaderFieldsTooLarge)
	}
}

// TestTunnelCarriesBothWays includes data that arrives together with the
// CONNECT.
func TestTunnelCarriesBothWays(t *testing.T) {
	w := newWorld(t, "api.example.com:443")
	conn := w.connect()
	defer conn.Close()
	inner := "GET /inner HTTP/1.1\r\nHost: inner.example.com\r\n\r\n"
	_, _ = io.WriteString(conn, connect("api.example.com:443")+inner)
	r := bufio.NewReader(conn)
	if status, _ := w.readResponse(r); status != 200 {
		t.Fatalf("CONNECT: got %d, want 200", status)
	}
	if status, body := w.readResponse(r); status != 200 || body != "hello from inner.example.com" {
		t.Errorf("early request: got %d %q, want 200 and the server's answer", status, body)
	}
	_, _ = io.WriteString(conn, inner)
	if status, _ := w.readResponse(r); status != 200 {
		t.Errorf("later request: got %d, want 200", status)
	}
}

func TestSilentUpstreamEnds(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := dialTCP(t.Context(), netip.MustParseAddrPort(l.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	us := newUpstreams(100 * time.Millisecond)
	u := us.add(conn, target{})
	_ = u.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := u.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read: got %v, want the connection closed", err)
	}
	if got := us.all(); len(got) != 0 {
		t.Errorf("open: got %d, want 0", len(got))
	}
}

func TestConnectionsAreLimited(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := limitListener(inner, 1, time.Minute)
	defer func() { _ = l.Close() }()
	accepted := make(chan net.Conn, 2)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	for range 2 {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	first := <-accepted
	select {
	case <-accepted:
		t.Fatal("second connection: got accepted, want it to wait for a slot")
	case <-time.After(200 * time.Millisecond):
	}
	first.Close()
	first.Close() // releases one slot, not two
	(<-accepted).Close()
	_ = l.Close()
	if _, ok := <-accepted; ok {
		t.Error("accept after close: got a connection, want none")
	}
}

func TestShutdownEndsTunnels(t *testing.T) {
	w := newWorld(t, "api.example.com:443")
	conn, r := w.tunnel("api.example.com:443")
	defer conn.Close()
	start := time.Now()
	w.end()
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("tunnel: got %v, want EOF", err)
	}
	if took := time.Since(start); took > shutdownGrace+15*time.Second {
		t.Errorf("shutdown: took %s, want at most %s", took, shutdownGrace)
	}
}

func TestCannotListen(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := Run(t.Context(), Options{Listen: l.Addr().String()}); err == nil {
		t.Error("run on a port in use: got nil, want an error")
	}
}
