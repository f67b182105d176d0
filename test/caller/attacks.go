// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"
)

// attack is a connection through the bundle.
type attack struct {
	// Connect is the target of the CONNECT request, and Name is the server's name that
	// the client asks for in TLS.
	Connect, Name string
	// Pieces are what the client sends, each with a write of its own.
	Pieces []string
}

// maxAnswer is the number of bytes of an answer that are shown.
const maxAnswer = 600

// atOnce is the number of connections that are made at once.
const atOnce = 8

// attacks makes the connections of a list, and prints what was answered as a
// list. It verifies no certificate, because an attacker does not care.
func attacks(in io.Reader, out io.Writer) error {
	var plan struct {
		Seconds int
		Attacks []attack
	}
	if err := json.NewDecoder(in).Decode(&plan); err != nil {
		return err
	}
	answers := make([]string, len(plan.Attacks))
	var wait sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i, a := range plan.Attacks {
		slots <- struct{}{}
		wait.Go(func() {
			answers[i] = a.run(time.Duration(plan.Seconds) * time.Second)
			<-slots
		})
	}
	wait.Wait()
	return json.NewEncoder(out).Encode(answers)
}

// run returns the answer, or how the connection failed.
func (a attack) run(timeout time.Duration) string {
	c, err := connect(a.Connect)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(timeout))
	opened := tls.Client(c, &tls.Config{ServerName: a.Name, InsecureSkipVerify: true})
	for i, piece := range a.Pieces {
		if i > 0 {
			time.Sleep(100 * time.Millisecond)
		}
		if _, err := io.WriteString(opened, piece); err != nil {
			break // the answer may have come already
		}
	}
	text, err := io.ReadAll(io.LimitReader(opened, maxAnswer))
	if len(text) == 0 && err != nil {
		return err.Error()
	}
	return string(text)
}

// connect opens a tunnel through the bundle. Its error has what the bundle answered.
func connect(target string) (net.Conn, error) {
	proxy, err := url.Parse(os.Getenv("HTTPS_PROXY"))
	if err != nil {
		return nil, err
	}
	c, err := net.DialTimeout("tcp", proxy.Host, requestTimeout)
	if err != nil {
		return nil, err
	}
	_ = c.SetReadDeadline(time.Now().Add(requestTimeout))
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target)
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err == nil && answer.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
		err = fmt.Errorf("%s %s\n%s", answer.Proto, answer.Status, body)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	// A server of TLS or HTTP sends nothing before its client does, so that nothing is
	// left in the reader.
	_ = c.SetReadDeadline(time.Time{})
	return c, nil
}
