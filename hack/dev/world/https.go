// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/websocket"

	"botbottle.dev/bottle-operator/hack/dev/certificate"
)

// tlsRecord is the first byte of a TLS handshake. No HTTP request begins with it.
const tlsRecord = 0x16

// maxLines is the largest number of lines that /stream sends.
const maxLines = 100_000

// echoed are the request headers whose values /echo and /stream send back by name.
var echoed = []string{"Authorization", "X-Api-Key", "X-Goog-Api-Key"}

// loadCertificate reads or makes a certificate for the simulated internet.
func loadCertificate(dir string) (tls.Certificate, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return tls.Certificate{}, err
	}
	names := []string{internet.String(), "*" + exfil}
	for name := range hosts {
		names = append(names, name)
	}
	return certificate.Load(dir, names)
}

// serveTLS answers HTTP/1.1 and HTTP/2 over TLS. What it answers depends on the path:
//
//	/echo     the request, also in base64, hexadecimal and percent-encoding
//	/gzip     the same, compressed for clients that accept it
//	/stream   ?lines=N&every=DURATION: lines of JSON, each flushed in two halves
//	/ws       a WebSocket that sends the request, and then every message back
//
// Any other path gets the same line as over plain HTTP.
func (w *world) serveTLS(l net.Listener) error {
	server := &http.Server{
		Handler:           http.HandlerFunc(w.answerTLS),
		ReadHeaderTimeout: idleTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          log.New(io.Discard, "", 0),
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{*w.certificate}},
	}
	return server.ServeTLS(l, "", "")
}

// answerTLS logs a request and then answers it. The text of a request has the form of
// HTTP/1.1 and at most maxData bytes of the body. There is no ServeMux, because that
// redirects unusual paths instead of answering them.
func (w *world) answerTLS(rw http.ResponseWriter, r *http.Request) {
	var text bytes.Buffer
	fmt.Fprintf(&text, "%s %s %s\r\nHost: %s\r\n", r.Method, r.RequestURI, r.Proto, r.Host)
	_ = r.Header.Write(&text)
	text.WriteString("\r\n")
	_, _ = io.Copy(&text, io.LimitReader(r.Body, maxData))
	_, _ = io.Copy(io.Discard, r.Body)
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	w.log.write(entry{Proto: "tcp", Kind: "https", Local: fmt.Sprint(local), Remote: r.RemoteAddr}, text.Bytes())
	switch r.URL.Path {
	case "/echo":
		answerEcho(rw, r, text.String())
	case "/gzip":
		answerGzip(rw, r, text.String())
	case "/stream":
		answerStream(rw, r)
	case "/ws":
		answerWebSocket(rw, r, text.String())
	default:
		_, _ = io.WriteString(rw, "the outside world\n")
	}
}

// allForms returns a text in the encodings in which a server may send it back.
func allForms(text string) string {
	return strings.Join([]string{text, base64.StdEncoding.EncodeToString([]byte(text)), base64.RawURLEncoding.EncodeToString([]byte(text)),
		fmt.Sprintf("%x", text), fmt.Sprintf("%X", text), url.QueryEscape(text), url.PathEscape(text), strconv.QuoteToASCII(text)}, "\n") + "\n"
}

func answerEcho(rw http.ResponseWriter, r *http.Request, text string) {
	for _, name := range echoed {
		if value := r.Header.Get(name); value != "" {
			rw.Header().Set("X-Echo-"+name, value)
			rw.Header().Set(http.TrailerPrefix+"X-Trailer-"+name, value)
		}
	}
	_, _ = io.WriteString(rw, allForms(text))
}

func answerGzip(rw http.ResponseWriter, r *http.Request, text string) {
	if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		answerEcho(rw, r, text)
		return
	}
	rw.Header().Set("Content-Encoding", "gzip")
	z := gzip.NewWriter(rw)
	_, _ = io.WriteString(z, allForms(text))
	_ = z.Close()
}

func answerStream(rw http.ResponseWriter, r *http.Request) {
	lines, err := strconv.Atoi(r.URL.Query().Get("lines"))
	every, err2 := time.ParseDuration(r.URL.Query().Get("every"))
	if err != nil || err2 != nil || lines < 1 || lines > maxLines || every < 0 {
		http.Error(rw, "want lines=N&every=DURATION", http.StatusBadRequest)
		return
	}
	rw.Header().Set("Content-Type", "application/x-ndjson")
	flush := http.NewResponseController(rw)
	for n := range lines {
		var line strings.Builder
		fmt.Fprintf(&line, `{"line":%d`, n)
		for _, name := range echoed {
			if value := r.Header.Get(name); value != "" {
				fmt.Fprintf(&line, `,%q:%q`, strings.ToLower(name), value)
			}
		}
		text := line.String() + "}\n"
		// A value that the line contains arrives in two pieces.
		for _, piece := range []string{text[:len(text)-len(text)/3], text[len(text)-len(text)/3:]} {
			if _, err := io.WriteString(rw, piece); err != nil || flush.Flush() != nil {
				return
			}
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(every):
		}
	}
}

func answerWebSocket(rw http.ResponseWriter, r *http.Request, text string) {
	websocket.Server{Handler: func(c *websocket.Conn) {
		_ = c.SetDeadline(time.Now().Add(10 * idleTimeout))
		if websocket.Message.Send(c, allForms(text)) != nil {
			return
		}
		for {
			var message []byte
			if websocket.Message.Receive(c, &message) != nil || websocket.Message.Send(c, string(message)) != nil {
				return
			}
		}
	}}.ServeHTTP(rw, r)
}

// sniffer sends each connection to one of two listeners, by its first byte.
type sniffer struct {
	net.Listener
	plain, secure *queue
}

// queue is a listener that accepts what another one sends to it.
type queue struct {
	net.Listener
	conns chan net.Conn
}

func (q *queue) Accept() (net.Conn, error) { return <-q.conns, nil }

func newSniffer(l net.Listener) *sniffer {
	return &sniffer{Listener: l, plain: &queue{l, make(chan net.Conn)}, secure: &queue{l, make(chan net.Conn)}}
}

// run accepts connections until the listener fails.
func (s *sniffer) run() error {
	for {
		c, err := s.Accept()
		if err != nil {
			return err
		}
		go func() {
			first := make([]byte, 1)
			_ = c.SetReadDeadline(time.Now().Add(idleTimeout))
			n, _ := io.ReadFull(c, first) // a connection without a byte is logged as one over plain HTTP
			_ = c.SetReadDeadline(time.Time{})
			q := s.plain
			if n == 1 && first[0] == tlsRecord {
				q = s.secure
			}
			q.conns <- &sniffed{Conn: c, first: first[:n]}
		}()
	}
}

// sniffed is a connection whose first bytes were read already.
type sniffed struct {
	net.Conn
	first []byte
}

func (c *sniffed) Read(b []byte) (int, error) {
	if len(c.first) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.first)
	c.first = c.first[n:]
	return n, nil
}
