// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// memoryLog is a log in memory.
type memoryLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *memoryLog) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *memoryLog) entries(t *testing.T) []entry {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []entry
	for line := range strings.Lines(b.buf.String()) {
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		out = append(out, e)
	}
	return out
}

func newWorld() (*world, *memoryLog) {
	b := &memoryLog{}
	return &world{log: &journal{w: b}, failed: make(chan error, 16)}, b
}

func query(t *testing.T, name string, kind dnsmessage.Type) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}},
	}
	packed, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

func TestAnswerDNS(t *testing.T) {
	for _, c := range []struct {
		name string
		kind dnsmessage.Type
		code dnsmessage.RCode
		want string
	}{
		{"allowed.test.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, "203.0.113.10"},
		{"DENIED.test.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, "203.0.113.10"},
		{"s3cr3t.a.b.exfil.test.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, "203.0.113.10"},
		{"rebind-lan.test.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, "10.77.0.1"},
		{"node.test.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, "203.0.113.99"},
		{"rebind-metadata.test.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, "169.254.169.254"},
		{"allowed.test.", dnsmessage.TypeAAAA, dnsmessage.RCodeSuccess, ""},
		{"exfil.test.", dnsmessage.TypeA, dnsmessage.RCodeNameError, ""},
		{"elsewhere.test.", dnsmessage.TypeA, dnsmessage.RCodeNameError, ""},
	} {
		w, b := newWorld()
		answer := w.answerDNS(entry{Proto: "udp", Local: "l", Remote: "r"}, query(t, c.name, c.kind))
		var m dnsmessage.Message
		if err := m.Unpack(answer); err != nil {
			t.Fatalf("%s %s: %v", c.name, c.kind, err)
		}
		got := ""
		for _, a := range m.Answers {
			got = netip.AddrFrom4(a.Body.(*dnsmessage.AResource).A).String()
		}
		if got != c.want || m.RCode != c.code || m.ID != 7 || !m.Response {
			t.Errorf("%s %s: got %q in %+v, want %q, %s", c.name, c.kind, got, m.Header, c.want, c.code)
		}
		if es := b.entries(t); len(es) != 1 || es[0].Name != c.name || es[0].Kind != "dns" || es[0].Remote != "r" {
			t.Errorf("%s %s: got log %+v, want the query", c.name, c.kind, es)
		}
	}
	w, b := newWorld()
	if got := w.answerDNS(entry{}, []byte("s3cr3t but not a query")); got != nil {
		t.Errorf("not a query: got answer %q, want none", got)
	}
	if es := b.entries(t); len(es) != 1 || es[0].Data != "s3cr3t but not a query" {
		t.Errorf("not a query: got log %+v, want the received data", es)
	}
}

func TestHTTPIsLoggedVerbatim(t *testing.T) {
	for what, c := range map[string]struct{ sent, log string }{
		"request": {"POST /p?q HTTP/1.1\r\nHost: h\r\nX: s3cr3t\r\nContent-Length: 5\r\nConnection: close\r\n\r\nbo\x00\"y",
			`POST /p?q HTTP/1.1\r\nHost: h\r\nX: s3cr3t\r\nContent-Length: 5\r\nConnection: close\r\n\r\nbo\x00\"y`},
		"not a request":  {"\x16\x03\x01hello\r\n\r\n", `\x16\x03\x01hello\r\n\r\n`},
		"nothing at all": {"", ""},
	} {
		t.Run(what, func(t *testing.T) {
			w, b := newWorld()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() { _ = w.serveHTTP(l) }()
			c2, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(c2, c.sent)
			if c.sent == "" {
				c2.Close()
			} else if response, _ := io.ReadAll(c2); what == "request" && !bytes.HasSuffix(response, []byte("the outside world\n")) {
				t.Errorf("got %q, want the outside world", response)
			}
			want := entry{Proto: "tcp", Kind: "http", Local: l.Addr().String(), Remote: c2.LocalAddr().String(), Data: c.log}
			got := await(t, b)
			got.Time = ""
			if got != want {
				t.Errorf("got log %+v, want %+v", got, want)
			}
		})
	}
}

// With a certificate, TLS and plain HTTP are served on the same port.
func TestTLS(t *testing.T) {
	w, b := newWorld()
	dir := t.TempDir()
	loaded, err := loadCertificate(dir)
	if err != nil {
		t.Fatal(err)
	}
	w.certificate = &loaded
	authority, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := newSniffer(l)
	go func() { _ = w.serveHTTP(s.plain) }()
	go func() { _ = w.serveTLS(s.secure) }()
	go func() { _ = s.run() }()
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
		}}
	defer transport.CloseIdleConnections()
	get := func(url string) (*http.Response, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer v4lue")
		response, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response, string(body)
	}
	if _, body := get("http://opened.test/p"); body != "the outside world\n" {
		t.Errorf("plain HTTP: got %q", body)
	}
	for path, want := range map[string]string{"/p?q": "the outside world\n", "/echo": "Bearer v4lue", "/gzip": "Bearer v4lue", "//a/../b": "the outside world\n",
		"/stream?lines=2&every=1ms": "{\"line\":0,\"authorization\":\"Bearer v4lue\"}\n{\"line\":1,\"authorization\":\"Bearer v4lue\"}\n"} {
		response, body := get("https://opened.test" + path)
		if response.ProtoMajor != 2 || !strings.Contains(body, want) {
			t.Errorf("%s: got %s and %q, want HTTP/2 and %q", path, response.Proto, body, want)
		}
		if path == "/echo" && (response.Header.Get("X-Echo-Authorization") != "Bearer v4lue" || response.Trailer.Get("X-Trailer-Authorization") != "Bearer v4lue") {
			t.Errorf("%s: got headers %v and trailers %v, want the request's Authorization in both", path, response.Header, response.Trailer)
		}
	}
	logged := false
	for _, e := range b.entries(t) {
		logged = logged || e.Kind == "https" && strings.HasPrefix(e.Data, `POST /p?q HTTP/2.0\r\nHost: opened.test\r\n`) && strings.HasSuffix(e.Data, `\r\n\r\nbody`)
	}
	if !logged {
		t.Errorf("got log %+v, want the request", b.entries(t))
	}
}

// await waits for a log's only line.
func await(t *testing.T, b *memoryLog) entry {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if es := b.entries(t); len(es) > 0 {
			if len(es) > 1 {
				t.Fatalf("got log %+v, want one line", es)
			}
			return es[0]
		}
	}
	t.Fatal("got no log, want one line")
	return entry{}
}

func TestSocketAnswersFromTheQueriedAddress(t *testing.T) {
	w, b := newWorld()
	s, err := openSocket("udp4", "0")
	if err != nil {
		t.Fatal(err)
	}
	defer s.conn.Close()
	s.port = uint16(s.conn.LocalAddr().(*net.UDPAddr).Port)
	go func() {
		_ = s.serve(func(e entry, d []byte) []byte { w.log.write(e, d); return d })
	}()
	// All of 127.0.0.0/8 is local; the kernel would answer from 127.0.0.1.
	queried := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.77"), s.port)
	from, err := net.ListenUDP("udp4", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	if _, err := from.WriteToUDPAddrPort([]byte("a\xffb"), queried); err != nil {
		t.Fatal(err)
	}
	_ = from.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 16)
	n, sender, err := from.ReadFromUDPAddrPort(buf)
	if err != nil || string(buf[:n]) != "a\xffb" || sender != queried {
		t.Errorf("got %q from %s (%v), want the echo from %s", buf[:n], sender, err, queried)
	}
	if e := await(t, b); e.Local != queried.String() || e.Data != `a\xffb` {
		t.Errorf("got log %+v, want the datagram received at %s", e, queried)
	}
}

func TestLogLinesAreBounded(t *testing.T) {
	w, b := newWorld()
	w.log.write(entry{}, bytes.Repeat([]byte("x"), maxData+1))
	if got := len(await(t, b).Data); got != maxData {
		t.Errorf("data of a line: got %d bytes, want %d", got, maxData)
	}
}
