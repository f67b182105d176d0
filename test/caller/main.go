// SPDX-License-Identifier: Apache-2.0

// Command caller is what a program in a guest may do with an opened host. It uses the
// proxy and the certificates that its environment names, as any client does.
//
// usage:
//
//	caller attacks <JSON          makes the connections of a list of attacks
//	caller many URL COUNT FILE    makes requests of every kind, and keeps all that it received in FILE
//	caller follow URL FILE        follows a stream, again and again, and counts in FILE
//	caller poll URL FILE          repeats a request over one connection, and counts in FILE
//
// The last three run until they are killed.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"
)

// tokenVariable has what the guest takes for its credential.
const tokenVariable = "OPENED_TOKEN"

// requestTimeout is how long a request may take, with all of its answer. It is long
// because of emulated guests.
const requestTimeout = 2 * time.Minute

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "caller:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "attacks":
		return attacks(os.Stdin, os.Stdout)
	case len(args) == 4 && args[0] == "many":
		count, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return many(args[1], count, args[3])
	case len(args) == 3 && args[0] == "follow":
		return follow(args[1], args[2])
	case len(args) == 3 && args[0] == "poll":
		return poll(args[1], args[2])
	}
	return errors.New("usage: caller attacks | many URL COUNT FILE | follow URL FILE | poll URL FILE")
}

// transport returns a client's connections. protocol is "h1", "h2" or "" for either.
func transport(protocol string) *http.Transport {
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: protocol != "h1", TLSHandshakeTimeout: requestTimeout}
	if protocol != "" {
		t.Protocols = new(http.Protocols)
		t.Protocols.SetHTTP1(protocol == "h1")
		t.Protocols.SetHTTP2(protocol == "h2")
	}
	return t
}

// newRequest returns a request with what the guest takes for its credential.
func newRequest(method, url string, body []byte) (*http.Request, error) {
	r, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err == nil {
		r.Header.Set("Authorization", "Bearer "+os.Getenv(tokenVariable))
	}
	return r, err
}

// roots returns the certificates that the environment names.
func roots() (*x509.CertPool, error) {
	raw, err := os.ReadFile(os.Getenv("SSL_CERT_FILE"))
	pool := x509.NewCertPool()
	if err == nil && !pool.AppendCertsFromPEM(raw) {
		err = errors.New("SSL_CERT_FILE has no certificate")
	}
	return pool, err
}

func clientConfig(name string) (*tls.Config, error) {
	pool, err := roots()
	return &tls.Config{RootCAs: pool, ServerName: name}, err
}

// replace writes a file so that readers see all of it or none.
func replace(path, content string) error {
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
