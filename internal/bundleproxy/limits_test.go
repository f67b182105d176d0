// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// shortLimits sets limits so long that they do not end a test, except the one
// that set shortens.
func shortLimits(set func(*limits)) func(*Options) {
	return func(o *Options) {
		o.limits = limits{readHeader: time.Minute, keepAlive: time.Minute, silence: time.Minute, drain: time.Minute}
		set(&o.limits)
	}
}

const (
	instant = 300 * time.Millisecond
	// lull is a limit that is not reached while something happens, even if the machine
	// stops for a second or two.
	lull = 4 * time.Second
)

// wantClosed checks that the other end closes the connection, with or without
// an error, before the test's own deadline.
func wantClosed(t *testing.T, what string, r io.Reader) {
	t.Helper()
	_, err := io.Copy(io.Discard, r)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("%s: got a connection that stays open, want it closed", what)
	}
}

func TestSlowHeaderIsCutOff(t *testing.T) {
	w := newWorldWith(t, shortLimits(func(l *limits) { l.readHeader = instant }), "api.example.com:80")
	for _, start := range []string{"", "GET http://api.example.com/ HTTP/1.1\r\nHost: x\r\nX-Slow: "} {
		conn := w.connect()
		defer conn.Close()
		_, _ = io.WriteString(conn, start)
		wantClosed(t, fmt.Sprintf("after %q", start), conn)
	}
}

func TestIdleKeepAliveIsClosed(t *testing.T) {
	w := newWorldWith(t, shortLimits(func(l *limits) { l.keepAlive = instant }), "api.example.com:80")
	for _, request := range []string{get("http://api.example.com/"), get("http://evil.example.com/")} {
		conn := w.connect()
		defer conn.Close()
		_, _ = io.WriteString(conn, request)
		r := bufio.NewReader(conn)
		w.readResponse(r)
		wantClosed(t, "between two requests", r)
	}
}

// TestRefusalDoesNotWaitForBody checks that a refusal does not wait for the
// body, and that its connection ends.
func TestRefusalDoesNotWaitForBody(t *testing.T) {
	for name, drain := range map[string]time.Duration{"answer": time.Minute, "end": instant} {
		w := newWorldWith(t, shortLimits(func(l *limits) { l.drain = drain }))
		for _, header := range []string{"Content-Length: 1000", "Transfer-Encoding: chunked", "Content-Length: 1000\r\nExpect: 100-continue"} {
			conn := w.connect()
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.WriteString(conn, "POST http://evil.example.com/ HTTP/1.1\r\nHost: x\r\n"+header+"\r\n\r\n")
			r := bufio.NewReader(conn)
			if status, body := w.readResponse(r); status != 403 {
				t.Errorf("%s, %s: got %d %q, want 403 immediately", name, header, status, body)
			}
			if drain == instant {
				wantClosed(t, header, r)
			}
			conn.Close()
		}
	}
}

// TestIdleConnectionsAreClosed checks that neither a host nor a guest that goes
// silent, or stops reading, keeps a connection forever.
func TestIdleConnectionsAreClosed(t *testing.T) {
	hang := func(rw http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(rw).Flush()
		<-r.Context().Done()
	}
	flood := func(rw http.ResponseWriter, _ *http.Request) {
		for block := make([]byte, 64<<10); ; {
			if _, err := rw.Write(block); err != nil {
				return
			}
		}
	}
	t.Run("host before its response", func(t *testing.T) {
		w := newWorldWith(t, shortLimits(func(l *limits) { l.silence = instant }), "api.example.com:80")
		w.setHandler(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		conn := w.connect()
		defer conn.Close()
		_, _ = io.WriteString(conn, get("http://api.example.com/"))
		wantClosed(t, "plain request", conn)
	})
	t.Run("host during its response", func(t *testing.T) {
		w := newWorldWith(t, shortLimits(func(l *limits) { l.silence = instant }), "api.example.com:80")
		w.setHandler(hang)
		conn := w.connect()
		defer conn.Close()
		_, _ = io.WriteString(conn, get("http://api.example.com/"))
		wantClosed(t, "plain request", conn)
	})
	t.Run("guest during its body", func(t *testing.T) {
		w := newWorldWith(t, shortLimits(func(l *limits) { l.silence = instant }), "api.example.com:80")
		w.setHandler(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
		conn := w.connect()
		defer conn.Close()
		_, _ = io.WriteString(conn, "POST http://api.example.com/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
		wantClosed(t, "plain request", conn)
	})
	t.Run("tunnel", func(t *testing.T) {
		t.Parallel()
		w := newWorldWith(t, shortLimits(func(l *limits) { l.silence = lull }), "api.example.com:443")
		conn, r := w.tunnel("api.example.com:443")
		defer conn.Close()
		wantClosed(t, "tunnel", r)
	})
	for name, request := range map[string]string{
		"plain": get("http://api.example.com/"), "tunnel": connect("api.example.com:80") + get("/"),
	} {
		t.Run("guest does not read, "+name, func(t *testing.T) {
			w := newWorldWith(t, shortLimits(func(l *limits) { l.silence = instant }), "api.example.com:80")
			w.setHandler(flood)
			conn := w.connect()
			defer conn.Close()
			_, _ = io.WriteString(conn, request)
			w.eventually("the guest's connection is closed", func() bool { return !established(t, conn) })
		})
	}
}

// established reports whether the other end of a connection still has it open.
func established(t *testing.T, conn net.Conn) bool {
	t.Helper()
	for line := range strings.Lines(readFile(t, "/proc/self/net/tcp")) {
		f := strings.Fields(line)
		if len(f) > 3 && f[1] == procAddr(conn.RemoteAddr()) && f[2] == procAddr(conn.LocalAddr()) && f[3] == "01" {
			return true
		}
	}
	return false
}

// TestActiveTunnelIsKept checks that a tunnel with traffic now and then
// outlives the limit.
func TestActiveTunnelIsKept(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, shortLimits(func(l *limits) { l.silence = lull }), "api.example.com:443")
	conn, r := w.tunnel("api.example.com:443")
	defer conn.Close()
	for begin := time.Now(); time.Since(begin) < lull+time.Second; {
		time.Sleep(instant)
		_, _ = io.WriteString(conn, "GET /x HTTP/1.1\r\nHost: kept\r\n\r\n")
		if status, _ := w.readResponse(r); status != 200 {
			t.Fatalf("tunnel in use: got %d, want 200", status)
		}
	}
}

func TestResponseHeaderTooLarge(t *testing.T) {
	w := newWorld(t, "api.example.com:80")
	size := 0
	w.setHandler(func(rw http.ResponseWriter, _ *http.Request) { rw.Header().Set("X", strings.Repeat("x", size)) })
	for _, tt := range []struct{ size, status int }{{maxHeader - 8192, 200}, {maxHeader + 8192, 502}} {
		size = tt.size
		if status, _ := w.roundTrip(get("http://api.example.com/")); status != tt.status {
			t.Errorf("header of %d bytes: got %d, want %d", size, status, tt.status)
		}
	}
}

// TestConnectionSlotsAreReleased checks that a guest can use all of its
// connections again, whatever it did with them.
func TestConnectionSlotsAreReleased(t *testing.T) {
	w := newWorld(t, "api.example.com:80")
	w.setHandler(func(rw http.ResponseWriter, r *http.Request) {
		if conn, _, err := http.NewResponseController(rw).Hijack(); err == nil {
			fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
			conn.Close()
		}
	})
	for i := range maxConns + 20 {
		conn := w.connect()
		defer conn.Close()
		request := []string{
			"GET http://api.example.com/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
			connect("api.example.com:80") + "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
			"POST http://evil.example.com/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
		}[i%3]
		_, _ = io.WriteString(conn, request)
		wantClosed(t, request, conn)
	}
	if status, _ := w.roundTrip(get("http://evil.example.com/")); status != 403 {
		t.Errorf("one more: got %d, want 403", status)
	}
}
