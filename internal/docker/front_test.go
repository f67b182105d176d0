// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httputil"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/docker/dockertest"
)

// front stands in front of a real dockerd and changes some of what passes.
type front struct {
	host string
	path string
	next http.Handler

	mu     sync.Mutex
	server *http.Server
	// answer answers a request instead of dockerd, if it returns true.
	answer func(w http.ResponseWriter, r *http.Request) bool
}

// newFront returns a front that changes nothing yet.
func newFront(t *testing.T, d *dockertest.Daemon) *front {
	t.Helper()
	socket := strings.TrimPrefix(d.Host, "unix://")
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "docker" },
		FlushInterval: -1,
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}},
		// The request of a client that has gone is not worth a line in the log.
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	path := filepath.Join(t.TempDir(), "front.sock")
	f := &front{host: "unix://" + path, path: path, next: proxy}
	f.restart(t)
	t.Cleanup(func() { _ = f.server.Close() })
	return f
}

// engine returns an Engine that talks to the front.
func (f *front) engine(t *testing.T) *Engine {
	t.Helper()
	e, err := New(Options{Host: f.host})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// restart closes all connections, as a new Engine does, and listens again.
func (f *front) restart(t *testing.T) {
	t.Helper()
	if f.server != nil {
		_ = f.server.Close()
	}
	l, err := net.Listen("unix", f.path)
	if err != nil {
		t.Fatal(err)
	}
	f.server = &http.Server{Handler: f, ReadHeaderTimeout: time.Minute}
	go func(s *http.Server) { _ = s.Serve(l) }(f.server)
}

// with sets the function that answers requests instead of dockerd.
func (f *front) with(answer func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	answer := f.answer
	f.mu.Unlock()
	if answer == nil || !answer(w, r) {
		f.next.ServeHTTP(w, r)
	}
}

// refuse answers a request as docker does.
func refuse(w http.ResponseWriter, status int, message string) bool {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": message})
	return true
}
