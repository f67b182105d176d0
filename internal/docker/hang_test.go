// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/require"
)

var (
	testOwner   = host.Owner{UID: "12345678-90ab", Namespace: "team-a", Name: "mine", Slug: "demo", Cluster: "cluster-1", Node: "node-1"}
	testNetwork = host.Network{Owner: testOwner, Subnet: netip.MustParsePrefix("192.168.44.0/24"), Gateway: netip.MustParseAddr("192.168.44.1")}
	testSpec    = host.BundleSpec{Owner: testOwner, IP: netip.MustParseAddr("192.168.44.2"), Image: "foreign:1"}
)

// callsOf returns all calls that need an answer from docker.
func callsOf(e *Engine) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"Ping":             e.Ping,
		"InspectNetwork":   func(ctx context.Context) error { _, err := e.InspectNetwork(ctx, testOwner); return err },
		"OccupiedPrefixes": func(ctx context.Context) error { _, err := e.OccupiedPrefixes(ctx, testOwner); return err },
		"EnsureNetwork":    func(ctx context.Context) error { return e.EnsureNetwork(ctx, testNetwork) },
		"DeleteNetwork":    func(ctx context.Context) error { return e.DeleteNetwork(ctx, testOwner) },
		"ListNetworks":     func(ctx context.Context) error { _, err := e.ListNetworks(ctx); return err },
		"InspectBundle":    func(ctx context.Context) error { _, err := e.InspectBundle(ctx, testOwner); return err },
		"EnsureBundle":     func(ctx context.Context) error { _, err := e.EnsureBundle(ctx, testSpec); return err },
		"StopBundle":       func(ctx context.Context) error { return e.StopBundle(ctx, testOwner) },
		"DeleteBundle":     func(ctx context.Context) error { return e.DeleteBundle(ctx, testOwner) },
		"ListBundles":      func(ctx context.Context) error { _, err := e.ListBundles(ctx); return err },
		"ReadFile":         func(ctx context.Context) error { _, err := e.ReadFile(ctx, testOwner, "/ca.pem", 1); return err },
	}
}

// TestHangingDocker uses a dockerd that accepts connections but does not answer:
// either from the start, or after it has reported its version.
func TestHangingDocker(t *testing.T) {
	require.Full(t, "waits for time-outs")
	for name, answer := range map[string]http.HandlerFunc{
		"from the start": hang,
		"after a ping":   hangAfterPing,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := engineOn(t, answer)
			start := time.Now()
			var wg sync.WaitGroup
			// All calls run in parallel: no caller waits for another's time-out.
			for call, do := range callsOf(e) {
				if call == "Ping" && name == "after a ping" {
					continue
				}
				wg.Go(func() {
					if err := do(t.Context()); !errors.Is(err, host.ErrUnavailable) {
						t.Errorf("%s: got %v, want ErrUnavailable", call, err)
					}
				})
			}
			wg.Wait()
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("took %s, want the time-out of one call", took)
			}
		})
	}
}

func TestHangingDockerCancelled(t *testing.T) {
	e := engineOn(t, hang)
	// A caller that negotiates the version must not delay the cancellation of
	// others.
	go func() { _, _ = e.ListBundles(t.Context()) }()
	time.Sleep(50 * time.Millisecond)
	for call, do := range callsOf(e) {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			time.AfterFunc(50*time.Millisecond, cancel)
			start := time.Now()
			err := do(ctx)
			if !errors.Is(err, context.Canceled) || errors.Is(err, host.ErrUnavailable) {
				t.Errorf("got %v, want context.Canceled without ErrUnavailable", err)
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("took %s, want it to end with the context", took)
			}
		})
	}
}

// TestHangingDockerWatched checks that a stream that cannot be opened counts as a
// lost stream, and that the watch still ends with its context.
func TestHangingDockerWatched(t *testing.T) {
	e := engineOn(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	ctx, cancel := context.WithCancel(t.Context())
	changes := make(chan string, 100)
	ended := make(chan error, 1)
	go func() { ended <- e.WatchBundles(ctx, func(uid string) { changes <- uid }) }()
	if uid := <-changes; uid != "" {
		t.Errorf("changed: got %q, want %q", uid, "")
	}
	time.Sleep(reconnectFirst * 4)
	if got := len(changes); got != 0 {
		t.Errorf("changed while docker stays unavailable: got %d calls, want 0", got)
	}
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("watch: got %v, want context.Canceled", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("watch: did not end with its context")
	}
}

func TestNoDocker(t *testing.T) {
	e, err := New(Options{Host: "unix://" + filepath.Join(t.TempDir(), "none.sock")})
	if err != nil {
		t.Fatal(err)
	}
	for call, do := range callsOf(e) {
		if err := do(t.Context()); !errors.Is(err, host.ErrUnavailable) {
			t.Errorf("%s: got %v, want ErrUnavailable", call, err)
		}
	}
	if _, err := New(Options{Host: "nowhere"}); err == nil {
		t.Error("New with an invalid address: got nil, want an error")
	}
}

func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func hangAfterPing(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/_ping") {
		w.Header().Set("Api-Version", "1.41")
		_, _ = io.WriteString(w, "OK")
		return
	}
	hang(w, r)
}

// engineOn returns an Engine whose docker answers requests with answer.
func engineOn(t *testing.T, answer http.HandlerFunc) *Engine {
	t.Helper()
	path := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: answer, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	e, err := New(Options{Host: "unix://" + path})
	if err != nil {
		t.Fatal(err)
	}
	return e
}
