// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"time"
)

// pause is how long a client waits before it tries again.
const pause = 100 * time.Millisecond

// follow reads a stream, and connects again when it ends, as clients of event streams
// do. FILE always has the number of connections that brought a line, of lines, and of
// failures, and the last failure.
func follow(address, path string) error {
	client := &http.Client{Transport: transport("")}
	var connections, lines, failures int
	last := "none"
	for {
		err := func() error {
			r, err := newRequest(http.MethodGet, address, nil)
			if err != nil {
				return err
			}
			a, err := client.Do(r)
			if err != nil {
				return err
			}
			defer a.Body.Close()
			if a.StatusCode != http.StatusOK {
				body, _ := io.ReadAll(io.LimitReader(a.Body, maxAnswer))
				return fmt.Errorf("%s %s", a.Status, body)
			}
			first := true
			for scan := bufio.NewScanner(a.Body); scan.Scan(); lines++ {
				if first {
					connections, first = connections+1, false
				}
				if err := replace(path, fmt.Sprintf("connections=%d lines=%d failures=%d last=%s\n", connections, lines+1, failures, last)); err != nil {
					return err
				}
			}
			return io.ErrUnexpectedEOF
		}()
		failures++
		last = fmt.Sprintf("%q", err.Error())
		_ = replace(path, fmt.Sprintf("connections=%d lines=%d failures=%d last=%s\n", connections, lines, failures, last))
		time.Sleep(pause)
	}
}

// poll repeats a request. FILE always has the number of connections that it needed, of
// answers, and of failures, and the last failure.
func poll(address, path string) error {
	client := &http.Client{Transport: transport(""), Timeout: requestTimeout}
	var connections, answers, failures int
	last := "none"
	for {
		err := func() error {
			r, err := newRequest(http.MethodGet, address, nil)
			if err != nil {
				return err
			}
			trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
				if !i.Reused {
					connections++
				}
			}}
			a, err := client.Do(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
			if err != nil {
				return err
			}
			defer a.Body.Close()
			body, err := io.ReadAll(a.Body)
			if err == nil && a.StatusCode != http.StatusOK {
				err = fmt.Errorf("%s %.600s", a.Status, body)
			}
			return err
		}()
		if err != nil {
			failures, last = failures+1, fmt.Sprintf("%q", err.Error())
		} else {
			answers++
		}
		if err := replace(path, fmt.Sprintf("connections=%d answers=%d failures=%d last=%s\n", connections, answers, failures, last)); err != nil {
			return err
		}
		time.Sleep(pause)
	}
}
