// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"

	"golang.org/x/net/websocket"
)

// TestOpenedRequests checks that a request gets to the host over each version of HTTP, with
// the credential and without what the guest sent in its place.
func TestOpenedRequests(t *testing.T) {
	ow := newOpenedWorld(t, credentialRule)
	ow.setHandler(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		rw.Header().Set("X-Ok", fmt.Sprint(len(r.Header.Values("Authorization")) == 1 && r.Header.Get("Authorization") == "Bearer "+planted))
		fmt.Fprintf(rw, "%s %s %s %s %s", r.Method, r.Proto, r.Host, r.RequestURI, body)
	})
	for _, version := range []string{"1.1", "2"} {
		c := ow.client(version)
		for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
			var body io.Reader
			want := fmt.Sprintf("%s HTTP/%s api.example.com /v1/x?a=b;c&d ", method, map[string]string{"1.1": "1.1", "2": "2.0"}[version])
			if method != "GET" {
				body, want = strings.NewReader("the body"), want+"the body"
			}
			r := request(method, "/v1//y/../x?a=b;c&d", body)
			r.Header.Set("Authorization", "Bearer from-the-guest")
			resp, got := ow.send(c, r)
			if resp.StatusCode != 200 || got != want || resp.Header.Get("X-Ok") != "true" || resp.ProtoMajor != int(version[0]-'0') {
				t.Errorf("HTTP/%s %s: got %s %s %q %v, want %q with the credential", version, method, resp.Proto, resp.Status, got, resp.Header, want)
			}
		}
	}
	for _, l := range ow.requestLines() {
		if l.Decision != "allow" || l.Rule != "api.example.com:443" || l.RuleIndex == nil || *l.RuleIndex != 0 || l.Credential != "model/token" || l.BytesOut == 0 {
			t.Errorf("log: got %+v, want the request with its rule and credential", l)
		}
	}
	if got := len(ow.requestLines()); got != 8 {
		t.Errorf("log: got %d lines, want 8", got)
	}
	for _, secret := range []string{planted, "/v1", "from-the-guest"} {
		if strings.Contains(ow.log.String(), secret) {
			t.Errorf("log: got %q in it", secret)
		}
	}
}

// TestOpenedStreams checks that pieces pass as they come in both directions: the host
// answers each line of the request before the guest sends the next one.
func TestOpenedStreams(t *testing.T) {
	for _, rule := range []string{credentialRule, `{"host":"api.example.com:443"}`} {
		ow := newOpenedWorld(t, rule)
		ow.setHandler(func(rw http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(rw)
			_ = rc.EnableFullDuplex()
			rw.Header().Set("Content-Type", "text/event-stream")
			_ = rc.Flush()
			buf := make([]byte, 100)
			for {
				n, err := r.Body.Read(buf)
				if n > 0 {
					fmt.Fprintf(rw, "echo %s", buf[:n])
					_ = rc.Flush()
				}
				if err != nil {
					return
				}
			}
		})
		for _, version := range []string{"1.1", "2"} {
			pr, pw := io.Pipe()
			resp, err := ow.client(version).Do(request("POST", "/", pr))
			if err != nil {
				t.Fatalf("HTTP/%s: got %v, want the header before the request ends", version, err)
			}
			for i := range 3 {
				piece := fmt.Sprintf("piece %d\n", i)
				_, _ = io.WriteString(pw, piece)
				want := "echo " + piece
				got := make([]byte, len(want))
				if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
					t.Fatalf("HTTP/%s: got %q, %v, want %q", version, got, err, want)
				}
			}
			pw.Close()
			if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
				t.Errorf("HTTP/%s, end: got %q, %v, want the end", version, rest, err)
			}
			resp.Body.Close()
		}
	}
}

// TestOpenedTrailers checks trailers in both directions, which gRPC needs, with its header
// TE.
func TestOpenedTrailers(t *testing.T) {
	ow := newOpenedWorld(t, credentialRule)
	ow.setHandler(func(rw http.ResponseWriter, r *http.Request) {
		te := r.Header.Get("Te")
		_, _ = io.Copy(io.Discard, r.Body)
		rw.Header().Set("Trailer", "Grpc-Status")
		_, _ = io.WriteString(rw, "x")
		rw.Header().Set("Grpc-Status", "0 "+te+" "+r.Trailer.Get("X-Sum"))
		rw.Header().Set(http.TrailerPrefix+"Grpc-Message", fmt.Sprint(r.Trailer["Authorization"], r.Trailer["Host"]))
	})
	for _, version := range []string{"1.1", "2"} {
		r := request("POST", "/", struct{ io.Reader }{strings.NewReader("body")})
		r.Header.Set("Te", "trailers")
		r.Trailer = http.Header{"X-Sum": {"42"}, "Authorization": {"Bearer x"}}
		if version == "2" {
			delete(r.Trailer, "Authorization") // servers of HTTP/2 refuse it
		}
		resp, body := ow.send(ow.client(version), r)
		if body != "x" || resp.Trailer.Get("Grpc-Status") != "0 trailers 42" || resp.Trailer.Get("Grpc-Message") != "[] []" {
			t.Errorf("HTTP/%s: got %q %v, want the trailers, without the credential's", version, body, resp.Trailer)
		}
	}
}

// TestOpenedContinue checks that a guest which waits for 100 gets it only if the host wants
// the body, and that other informational answers pass.
func TestOpenedContinue(t *testing.T) {
	ow := newOpenedWorld(t, credentialRule)
	ow.setHandler(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refused" {
			rw.WriteHeader(http.StatusTeapot)
			return
		}
		n, _ := io.Copy(io.Discard, r.Body)
		rw.Header().Set("Link", "</x>; rel=preload; key="+planted)
		rw.WriteHeader(http.StatusEarlyHints)
		rw.Header().Del("Link")
		fmt.Fprint(rw, n)
	})
	for _, version := range []string{"1.1", "2"} {
		for path, status := range map[string]int{"/wanted": 200, "/refused": http.StatusTeapot} {
			var continued, hints []string
			r := request("POST", path, bytes.NewReader(make([]byte, 100_000)))
			r.Header.Set("Expect", "100-continue")
			r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
				Got100Continue: func() { continued = append(continued, "100") },
				Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
					if code == http.StatusEarlyHints {
						hints = append(hints, h.Get("Link"))
					}
					return nil
				},
			}))
			resp, body := ow.send(ow.client(version), r)
			// A server of HTTP/2 does not tell its handler that a guest waits.
			wrong := (len(continued) > 0) != (status == 200) && (version == "1.1" || status == 200)
			if resp.StatusCode != status || wrong || status == 200 && body != "100000" {
				t.Errorf("HTTP/%s %s: got %d %q and %v, want %d", version, path, resp.StatusCode, body, continued, status)
			}
			if status == 200 && (len(hints) != 1 || hints[0] != "</x>; rel=preload; key="+strings.Repeat("*", len(planted))) {
				t.Errorf("HTTP/%s %s: got hints %q, want one with the credential masked", version, path, hints)
			}
		}
	}
}

// TestOpenedLargeUpload checks that a large body passes whole.
func TestOpenedLargeUpload(t *testing.T) {
	const size = 2 << 20
	ow := newOpenedWorld(t, credentialRule)
	ow.setHandler(func(rw http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		n, _ := io.Copy(sum, r.Body)
		fmt.Fprintf(rw, "%d %x", n, sum.Sum(nil))
	})
	for _, version := range []string{"1.1", "2"} {
		sum := sha256.New()
		r := request("PUT", "/", io.TeeReader(io.LimitReader(&pattern{}, size), sum))
		_, got := ow.send(ow.client(version), r)
		if want := fmt.Sprintf("%d %x", size, sum.Sum(nil)); got != want {
			t.Errorf("HTTP/%s: got %s, want %s", version, got, want)
		}
	}
}

// pattern is an endless body.
type pattern struct{ n int }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte((p.n + i) * 7 >> 3)
	}
	p.n += len(b)
	return len(b), nil
}

// TestOpenedWebSocket checks a WebSocket through an opened connection, with the credential
// on its request and not in what comes back.
func TestOpenedWebSocket(t *testing.T) {
	ow := newOpenedWorld(t, credentialRule)
	ow.setHandler(websocket.Handler(func(ws *websocket.Conn) {
		_ = websocket.Message.Send(ws, "got "+ws.Request().Header.Get("Authorization")+ws.Request().Header.Get("Sec-WebSocket-Extensions"))
		for {
			var text string
			if websocket.Message.Receive(ws, &text) != nil {
				return
			}
			_ = websocket.Message.Send(ws, "echo "+text)
		}
	}).ServeHTTP)
	conn, _ := ow.dialOpened("api.example.com:443", "api.example.com", "http/1.1")
	defer conn.Close()
	config, err := websocket.NewConfig("wss://api.example.com/ws", "https://api.example.com")
	if err != nil {
		t.Fatal(err)
	}
	config.Header = http.Header{"Sec-WebSocket-Extensions": {"permessage-deflate"}, "Authorization": {"Bearer guest"}}
	ws, err := websocket.NewClient(config, conn)
	if err != nil {
		t.Fatalf("WebSocket: %v; log:\n%s", err, ow.log.String())
	}
	for _, want := range []string{"got Bearer " + strings.Repeat("*", len(planted)), "echo one", "echo two"} {
		var got string
		if err := websocket.Message.Receive(ws, &got); err != nil || got != want {
			t.Fatalf("message: got %q, %v, want %q", got, err, want)
		}
		next := map[string]string{"got": "one", "echo one": "two"}[strings.Split(want, " Bearer")[0]]
		if next != "" {
			_ = websocket.Message.Send(ws, next)
		}
	}
	_ = websocket.Message.Send(ws, "the message "+known)
	var got string
	if err := websocket.Message.Receive(ws, &got); err == nil {
		t.Errorf("known secret: got %q back, want the end of the WebSocket", got)
	}
	ow.eventually("the WebSocket is logged", func() bool { return len(ow.requestLines()) == 1 })
	if l := ow.requestLines()[0]; l.Decision != "deny" || l.Secret != "env" || l.Place != "body" || l.BytesIn == 0 || l.BytesOut == 0 {
		t.Errorf("log: got %+v, want the known secret and the bytes of the WebSocket", l)
	}
}

// TestRedirectsAreTheGuests checks that the bundle follows no redirect, and that the
// credential does not go where the guest follows it.
func TestRedirectsAreTheGuests(t *testing.T) {
	ow := newOpenedWorld(t, credentialRule, `{"host":"*.example.com:443"}`)
	ow.world.mu.Lock()
	ow.names["other.example.com."] = ow.names["api.example.com."]
	ow.world.mu.Unlock()
	var seen []string
	ow.setHandler(func(rw http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Host+" "+r.Header.Get("Authorization"))
		if r.Host == "api.example.com" {
			http.Redirect(rw, r, "https://other.example.com/", http.StatusTemporaryRedirect)
		}
	})
	c := ow.client("2")
	c.CheckRedirect = nil
	r := request("GET", "/", nil)
	r.Header.Set("Authorization", "placeholder")
	ow.send(c, r)
	want := []string{"api.example.com Bearer " + planted, "other.example.com "}
	if fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("hosts got: %q, want %q", seen, want)
	}
}

// TestBrokenResponseIsBroken checks that a guest can tell a response that broke off from a
// complete one.
func TestBrokenResponseIsBroken(t *testing.T) {
	ow := newOpenedWorld(t, credentialRule)
	ow.setHandler(func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(rw, "half")
		_ = http.NewResponseController(rw).Flush()
		panic(http.ErrAbortHandler)
	})
	for _, version := range []string{"1.1", "2"} {
		resp, err := ow.client(version).Do(request("GET", "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil || errors.Is(err, io.EOF) || string(body) != "half" {
			t.Errorf("HTTP/%s: got %q, %v, want an error", version, body, err)
		}
	}
}
