// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestForwardedHeaders checks what the host sees of a request, and what the
// guest sees of the response: no headers of a single connection, and nothing
// that names another target than the one decided on.
func TestForwardedHeaders(t *testing.T) {
	w := newWorld(t, "api.example.com:80")
	var got http.Header
	var host, uri, body string
	w.setHandler(func(rw http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, host, uri, body = r.Header.Clone(), r.Host, r.RequestURI, string(b)
		for name, value := range map[string]string{
			"Connection": "X-Hop, keep-alive, Upgrade", "X-Hop": "1", "Keep-Alive": "timeout=1", "Upgrade": "websocket",
			"Proxy-Authenticate": "Basic", "X-Kept": "1",
		} {
			rw.Header().Set(name, value)
		}
		fmt.Fprint(rw, "answer")
	})
	conn := w.connect()
	defer conn.Close()
	_, _ = io.WriteString(conn, "POST http://user:secret@api.example.com/a?b=c HTTP/1.1\r\nHost: evil.example.com\r\nContent-Length: 4\r\n"+
		"Connection: X-Mine, Upgrade, HTTP2-Settings\r\nX-Mine: 1\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nKeep-Alive: 5\r\nTE: trailers\r\n"+
		"Proxy-Authorization: Basic c2VjcmV0\r\nProxy-Connection: keep-alive\r\nX-Kept: 1\r\nAuthorization: Bearer x\r\n\r\nbody")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 200 || string(answer) != "answer" || resp.Header.Get("X-Kept") != "1" {
		t.Errorf("answer: got %d %q %v, want the host's", resp.StatusCode, answer, resp.Header)
	}
	if host != "api.example.com" || uri != "/a?b=c" || body != "body" || got.Get("X-Kept") != "1" || got.Get("Authorization") != "Bearer x" {
		t.Errorf("host got: %q %q %q %v, want the target's Host, the path, the body and the end-to-end headers", host, uri, body, got)
	}
	for side, h := range map[string]http.Header{"host": got, "guest": resp.Header} {
		for _, name := range append([]string{"X-Mine", "X-Hop", "Http2-Settings"}, hopHeaders...) {
			if v, ok := h[name]; ok {
				t.Errorf("%s got %s: %q, want it removed", side, name, v)
			}
		}
	}
}

// TestWebSocket checks the only upgrade that is forwarded. Its connection ends
// when the host closes its own.
func TestWebSocket(t *testing.T) {
	w := newWorld(t, "api.example.com:80")
	w.setHandler(func(rw http.ResponseWriter, r *http.Request) {
		conn, rd, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		line, _ := rd.ReadString('\n')
		fmt.Fprintf(conn, "echo %s", line)
	})
	conn := w.connect()
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET http://api.example.com/ws HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, upgrade\r\nUpgrade: WebSocket\r\n\r\nearly\n")
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "websocket" {
		t.Fatalf("answer: got %d %v, want 101 to websocket", resp.StatusCode, resp.Header)
	}
	if line, err := r.ReadString('\n'); line != "echo early\n" {
		t.Errorf("through the WebSocket: got %q, %v, want the echo", line, err)
	}
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("after the host closed: got %v, want EOF", err)
	}
}

// TestUnrequestedUpgradeIsRefused checks that a host cannot switch to a
// protocol that was not requested or is not forwarded.
func TestUnrequestedUpgradeIsRefused(t *testing.T) {
	w := newWorld(t, "api.example.com:80")
	for what, headers := range map[string]string{"not requested": "", "h2c": "Connection: Upgrade\r\nUpgrade: h2c\r\n", "no connection": "Upgrade: websocket\r\n"} {
		for _, answer := range []string{
			"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nraw",
			"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nraw",
		} {
			w.setHandler(func(rw http.ResponseWriter, _ *http.Request) {
				conn, _, err := http.NewResponseController(rw).Hijack()
				if err == nil {
					_, _ = io.WriteString(conn, answer)
					conn.Close()
				}
			})
			if status, body := w.roundTrip("GET http://api.example.com/ HTTP/1.1\r\nHost: x\r\n" + headers + "\r\n"); status != 502 {
				t.Errorf("%s, answered %q: got %d %q, want 502", what, answer, status, body)
			}
		}
	}
}

// TestSmuggling checks that a request hidden behind another one is decided on
// as its own request, whichever header sets the length of the first.
func TestSmuggling(t *testing.T) {
	const hidden = "GET http://evil.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n"
	for name, tt := range map[string]struct {
		raw    string
		status int
		next   int    // status of the hidden request; 0 for no response to it
		body   string // as received by the host
	}{
		"both lengths": {
			"POST http://api.example.com/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200, 403, "abc",
		},
		"inside the body": {
			fmt.Sprintf("POST http://api.example.com/ HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", len(hidden)), 200, 0, hidden,
		},
		"behind the body": {
			"POST http://api.example.com/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 200, 403, "abc",
		},
		"in a trailer": {
			"POST http://api.example.com/ HTTP/1.1\r\nHost: x\r\nTrailer: X-A\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-A: 1\r\nHost: evil.example.com\r\n\r\n", 200, 403, "abc",
		},
		"two lengths":       {"POST http://api.example.com/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400, 0, ""},
		"space in a name":   {"POST http://api.example.com/ HTTP/1.1\r\nHost: x\r\nContent-Length : 3\r\n\r\nabc", 400, 0, ""},
		"unknown coding":    {"POST http://api.example.com/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\nabc", 501, 0, ""},
		"CONNECT's body":    {fmt.Sprintf("CONNECT api.example.com:80 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", len(hidden)), 400, 0, ""},
		"a refused body":    {"POST http://evil.example.com/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 403, 0, ""},
		"no body, in order": {"GET http://api.example.com/ HTTP/1.1\r\nHost: x\r\n\r\n", 200, 403, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "api.example.com:80")
			bodies := make(chan string, 10)
			w.setHandler(func(_ http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				bodies <- string(b)
				if len(r.Trailer) > 0 {
					t.Errorf("trailer: got %v, want none", r.Trailer)
				}
			})
			conn := w.connect()
			defer conn.Close()
			_, _ = io.WriteString(conn, tt.raw+hidden)
			r := bufio.NewReader(conn)
			if status, body := w.readResponse(r); status != tt.status {
				t.Fatalf("answer: got %d %q, want %d", status, body, tt.status)
			}
			if tt.status == 200 {
				if got := <-bodies; got != tt.body {
					t.Errorf("body: got %q, want %q", got, tt.body)
				}
			}
			if tt.next != 0 {
				if status, body := w.readResponse(r); status != tt.next {
					t.Errorf("hidden request: got %d %q, want %d", status, body, tt.next)
				}
			}
			if tt.status != 200 {
				if rest, err := io.ReadAll(r); len(rest) > 0 || err != nil {
					t.Errorf("hidden request: got %q, %v, want the connection closed", rest, err)
				}
			}
			if len(bodies) > 0 {
				t.Errorf("host: got %d more requests, want none", len(bodies))
			}
			for _, seen := range w.requests {
				if strings.Contains(seen, "evil") {
					t.Errorf("host: got %q, want no hidden request", seen)
				}
			}
		})
	}
}
