// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// upstreamStream is how a host sends a stream.
type upstreamStream struct {
	// head is what the host writes before the stream, and frame how it writes each
	// piece.
	head  string
	frame func(piece string) string
	tail  string
}

func chunk(piece string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(piece), piece) }

func plain(piece string) string { return piece }

// TestStreamsPassAsTheyCome checks that the guest gets the header and each write of a
// plain response before the host writes anything more, whatever the type and the
// framing of the response are. The host waits until the guest has the previous piece, so
// that a bundle that waits for more, or for the end, never gets it.
func TestStreamsPassAsTheyCome(t *testing.T) {
	const pieces = 3
	piece := func(i int) string { return fmt.Sprintf(`{"line":%d}`+"\n", i) }
	length := pieces * len(piece(0))
	for name, up := range map[string]upstreamStream{
		"NDJSON in chunks":                {"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n", chunk, "0\r\n\r\n"},
		"a watch":                         {"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n", chunk, "0\r\n\r\n"},
		"a log":                           {"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n", chunk, "0\r\n\r\n"},
		"no type":                         {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunk, "0\r\n\r\n"},
		"server-sent events":              {"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n", chunk, "0\r\n\r\n"},
		"a known length":                  {fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", length), plain, ""},
		"until the end of the connection": {"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", plain, ""},
		"HTTP/1.0":                        {"HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n", plain, ""},
		"a trailer":                       {"HTTP/1.1 200 OK\r\nTrailer: X-End\r\nTransfer-Encoding: chunked\r\n\r\n", chunk, "0\r\nX-End: yes\r\n\r\n"},
		"a trailer that was not announced": {
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunk, "0\r\nX-End: yes\r\n\r\n",
		},
		"an error": {"HTTP/1.1 503 Service Unavailable\r\nTransfer-Encoding: chunked\r\n\r\n", chunk, "0\r\n\r\n"},
	} {
		for _, version := range []string{"1.1", "1.0"} {
			t.Run(name+", to a guest of HTTP/"+version, func(t *testing.T) {
				seen := make(chan struct{})
				w := newWorld(t, "api.example.com:80")
				w.serveRaw(func(conn net.Conn) {
					_, _ = io.WriteString(conn, up.head)
					for i := range pieces {
						if _, ok := <-seen; !ok {
							return
						}
						_, _ = io.WriteString(conn, up.frame(piece(i)))
					}
					<-seen
					_, _ = io.WriteString(conn, up.tail)
				})
				conn := w.connect()
				defer conn.Close()
				defer close(seen)
				_, _ = fmt.Fprintf(conn, "GET http://api.example.com/watch HTTP/%s\r\nHost: x\r\n\r\n", version)
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					t.Fatalf("header: got %v, want it before the host writes the first piece", err)
				}
				defer resp.Body.Close()
				for i := range pieces {
					seen <- struct{}{}
					got := make([]byte, len(piece(i)))
					if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != piece(i) {
						t.Fatalf("piece %d: got %q, %v, want %q before the host writes more", i, got, err, piece(i))
					}
				}
				seen <- struct{}{}
				if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
					t.Errorf("end: got %q, %v, want the end of the body", rest, err)
				}
				if strings.Contains(up.tail, "X-End") && version == "1.1" && resp.Trailer.Get("X-End") != "yes" {
					t.Errorf("trailer: got %v, want the host's", resp.Trailer)
				}
			})
		}
	}
}

// TestCompressedStream checks the same for a stream whose pieces a guest can read only
// if the bundle leaves the compression alone.
func TestCompressedStream(t *testing.T) {
	w := newWorld(t, "api.example.com:80")
	seen := make(chan struct{})
	w.setHandler(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Encoding", r.Header.Get("Accept-Encoding"))
		zw := gzip.NewWriter(rw)
		for i := range 3 {
			fmt.Fprintf(zw, "line %d\n", i)
			_ = zw.Flush()
			_ = http.NewResponseController(rw).Flush()
			if _, ok := <-seen; !ok {
				return
			}
		}
		_ = zw.Close()
	})
	conn := w.connect()
	defer conn.Close()
	defer close(seen)
	_, _ = io.WriteString(conn, "GET http://api.example.com/ HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	zr, err := gzip.NewReader(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(zr)
	for i := range 3 {
		if line, err := lines.ReadString('\n'); line != fmt.Sprintf("line %d\n", i) {
			t.Fatalf("line %d: got %q, %v, want it before the host writes more", i, line, err)
		}
		seen <- struct{}{}
	}
}

// TestRequestStream checks that the pieces of a request pass as they come, and that the
// host may answer before it has all of them.
func TestRequestStream(t *testing.T) {
	w := newWorld(t, "api.example.com:80")
	w.setHandler(func(rw http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(rw)
		_ = rc.EnableFullDuplex()
		_ = rc.Flush()
		lines := bufio.NewReader(r.Body)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			fmt.Fprintf(rw, "echo %s", line)
			_ = rc.Flush()
		}
	})
	conn := w.connect()
	defer conn.Close()
	_, _ = io.WriteString(conn, "POST http://api.example.com/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("header: got %v, want it before the request ends", err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for i := range 3 {
		_, _ = io.WriteString(conn, chunk(fmt.Sprintf("%d\n", i)))
		if line, err := lines.ReadString('\n'); line != fmt.Sprintf("echo %d\n", i) {
			t.Fatalf("line %d: got %q, %v, want it before the request goes on", i, line, err)
		}
	}
	_, _ = io.WriteString(conn, "0\r\n\r\n")
	if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
		t.Errorf("end: got %q, %v, want the end of the body", rest, err)
	}
}

// serveRaw makes the host read a request's header and leave the rest to serve, which
// writes to the connection.
func (w *world) serveRaw(serve func(net.Conn)) {
	w.setHandler(func(rw http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			w.t.Error(err)
			return
		}
		defer conn.Close()
		serve(conn)
	})
}
