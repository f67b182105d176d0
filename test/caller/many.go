// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/net/websocket"
)

// received collects all that came from the host.
type received struct {
	file *os.File
	// text is also kept in memory, where a search must not find the credential either.
	text strings.Builder
}

func (r *received) add(text string) error {
	r.text.WriteString(text)
	_, err := r.file.WriteString(text)
	return err
}

// many makes requests of each kind in turn. At the end it writes "done" and how many
// there were of each kind to standard output, and waits.
func many(base string, count int, path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	got := &received{file: file}
	h1, h2 := &http.Client{Transport: transport("h1"), Timeout: requestTimeout}, &http.Client{Transport: transport("h2"), Timeout: requestTimeout}
	kinds := []struct {
		name string
		call func(n int) error
	}{
		{"h1", func(n int) error { return got.request(h1, http.MethodGet, fmt.Sprintf("%s/echo?n=%d", base, n)) }},
		{"h2", func(n int) error { return got.request(h2, http.MethodPost, fmt.Sprintf("%s/echo?n=%d", base, n)) }},
		{"gzip", func(n int) error { return got.request(h1, http.MethodGet, fmt.Sprintf("%s/gzip?n=%d", base, n)) }},
		{"stream", func(n int) error {
			return got.request(h2, http.MethodGet, fmt.Sprintf("%s/stream?lines=20&every=1ms&n=%d", base, n))
		}},
		{"websocket", func(n int) error { return got.webSocket(fmt.Sprintf("%s/ws?n=%d", base, n)) }},
	}
	made := map[string]int{}
	for n := range count {
		k := kinds[n%len(kinds)]
		if err := k.call(n); err != nil {
			return fmt.Errorf("request %d, %s: %w", n, k.name, err)
		}
		made[k.name]++
	}
	if err := file.Sync(); err != nil {
		return err
	}
	fmt.Println("done", made)
	for {
		time.Sleep(time.Hour)
		got.text.WriteByte('.') // keep what was received
	}
}

// request makes a request and collects the answer, with its headers and trailers.
func (r *received) request(c *http.Client, method, address string) error {
	q, err := newRequest(method, address, []byte("body\n"))
	if err != nil {
		return err
	}
	a, err := c.Do(q)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	body, err := io.ReadAll(a.Body)
	if err != nil {
		return err
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s\n", a.Proto, a.Status)
	_ = a.Header.Write(&text)
	text.Write(body)
	_ = a.Trailer.Write(&text)
	if a.StatusCode != http.StatusOK {
		return fmt.Errorf("%.600s", text.String())
	}
	return r.add(text.String())
}

// webSocket opens a WebSocket, sends a message, and collects what came.
func (r *received) webSocket(address string) error {
	c, err := dialWebSocket(address)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(requestTimeout))
	var first, second string
	if err := websocket.Message.Receive(c, &first); err != nil {
		return err
	}
	if err := websocket.Message.Send(c, "a message"); err != nil {
		return err
	}
	if err := websocket.Message.Receive(c, &second); err != nil {
		return err
	}
	if second != "a message" {
		return fmt.Errorf("the echo of a message: got %q", second)
	}
	return r.add(first + second)
}

// dialWebSocket connects through the bundle.
func dialWebSocket(address string) (*websocket.Conn, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	tunnel, err := connect(u.Hostname() + ":443")
	if err != nil {
		return nil, err
	}
	config, err := clientConfig(u.Hostname())
	if err != nil {
		return nil, err
	}
	u.Scheme = "wss"
	ws, err := websocket.NewConfig(u.String(), "https://"+u.Host)
	if err != nil {
		return nil, err
	}
	ws.Header.Set("Authorization", "Bearer "+os.Getenv(tokenVariable))
	return websocket.NewClient(ws, tls.Client(tunnel, config))
}
