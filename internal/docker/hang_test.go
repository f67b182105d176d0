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

// calls are all that need docker's answer.
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

// TestHangingDocker has a dockerd that accepts and says nothing, before and
// after it has once told its version.
func TestHangingDocker(t *testing.T) {
	require.Full(t, "waits for time-outs")
	for name, answer := range map[string]http.HandlerFunc{
		"from the start": hang,
		"later":          hangAfterPing,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := engineOn(t, answer)
			begin := time.Now()
			var wg sync.WaitGroup
			// All at once: no caller waits for another's time-out.
			for call, do := range callsOf(e) {
				if call == "Ping" && name == "later" {
					continue
				}
				wg.Go(func() {
					if err := do(t.Context()); !errors.Is(err, host.ErrUnavailable) {
						t.Errorf("%s: got %v, want ErrUnavailable", call, err)
					}
				})
			}
			wg.Wait()
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("took %s, want at most 10 s", took)
			}
		})
	}
}

func TestHangingDockerCancelled(t *testing.T) {
	e := engineOn(t, hang)
	// Who finds out docker's version holds up nobody's cancellation.
	go func() { _, _ = e.ListBundles(t.Context()) }()
	time.Sleep(50 * time.Millisecond)
	for call, do := range callsOf(e) {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			time.AfterFunc(50*time.Millisecond, cancel)
			begin := time.Now()
			err := do(ctx)
			if !errors.Is(err, context.Canceled) || errors.Is(err, host.ErrUnavailable) {
				t.Errorf("got %v, want context.Canceled and no word about docker", err)
			}
			if took := time.Since(begin); took > 2*time.Second {
				t.Errorf("took %s, want an end with the context", took)
			}
		})
	}
}

// TestHangingDockerWatched: a stream that cannot be opened is one that was
// lost, and the watch still ends with its context.
func TestHangingDockerWatched(t *testing.T) {
	e := engineOn(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	ctx, cancel := context.WithCancel(t.Context())
	told := make(chan string, 100)
	ended := make(chan error, 1)
	go func() { ended <- e.WatchBundles(ctx, func(uid string) { told <- uid }) }()
	if uid := <-told; uid != "" {
		t.Errorf("changed: got %q, want %q", uid, "")
	}
	time.Sleep(reconnectFirst * 4)
	if got := len(told); got != 0 {
		t.Errorf("changed while docker stays away: got %d calls, want 0", got)
	}
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("watch: got %v, want context.Canceled", err)
		}
	case <-time.After(5 * time.Second):
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
		t.Error("New of no address: got nil, want an error")
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

// engineOn returns an Engine of a docker that answers like this.
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
