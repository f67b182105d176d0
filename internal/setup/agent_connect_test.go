// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

func TestProblemOf(t *testing.T) {
	get := func(err error) error { return &url.Error{Op: "Get", URL: "https://hunter22", Err: err} }
	bottles := schema.GroupResource{Group: "botbottle.dev", Resource: "bottles"}
	for want, err := range map[string]error{
		"it refuses connections":                                            get(&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}),
		"it does not answer in time":                                        get(context.DeadlineExceeded),
		"its host name cannot be resolved":                                  get(&net.OpError{Op: "dial", Err: &net.DNSError{Err: "hunter22", Name: "hunter22", IsTimeout: true}}),
		"its certificate is not trusted":                                    get(x509.UnknownAuthorityError{}),
		"it does not accept the agent's credentials":                        apierrors.NewUnauthorized("hunter22"),
		"it does not permit the agent to read what it needs":                apierrors.NewForbidden(bottles, "", errors.New("hunter22")),
		"it answers with status 503":                                        apierrors.NewServiceUnavailable("hunter22"),
		"it does not know Bottles: the CustomResourceDefinition is missing": &meta.NoKindMatchError{GroupKind: schema.GroupKind{Kind: "Bottle"}},
		"it cannot be reached; the log has the error":                       errors.New(strings.Repeat("hunter22", 1000)),
	} {
		if got := problemOf(fmt.Errorf("agent: %w", err)); got != want {
			t.Errorf("%v: got %q, want %q", err, got, want)
		}
	}
}

// TestConnectedMetric checks that every request of the agent updates the metric
// that shows whether the API server answers.
func TestConnectedMetric(t *testing.T) {
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	defer server.Close()
	cfg, registry := &rest.Config{Host: server.URL}, prometheus.NewRegistry()
	if _, err := newAPIServer(cfg, registry); err != nil {
		t.Fatal(err)
	}
	client, err := boundedClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, step := range []struct {
		what   string
		status int
		ctx    context.Context
		want   float64
	}{
		{"before any request", 0, nil, 0},
		{"a response", http.StatusOK, t.Context(), 1},
		{"an object that does not exist", http.StatusNotFound, t.Context(), 1},
		{"unavailable", http.StatusServiceUnavailable, t.Context(), 0},
		{"another response", http.StatusOK, t.Context(), 1},
		{"a request that the agent cancelled", http.StatusOK, canceled, 1},
		{"refused credentials", http.StatusUnauthorized, t.Context(), 0},
		{"answers again", http.StatusOK, t.Context(), 1},
		{"gone", 0, t.Context(), 0},
	} {
		status = step.status
		if step.what == "gone" {
			server.Close()
		}
		if step.ctx != nil {
			request, err := http.NewRequestWithContext(step.ctx, http.MethodGet, server.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			if answer, err := client.Do(request); err == nil {
				answer.Body.Close()
			}
		}
		if got := gaugeOf(t, registry); got != step.want {
			t.Errorf("%s: got %v, want %v", step.what, got, step.want)
		}
	}
}

func gaugeOf(t *testing.T, registry *prometheus.Registry) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil || len(families) != 1 || families[0].GetName() != "bottle_agent_api_server_connected" {
		t.Fatalf("metrics: got %v, %v, want bottle_agent_api_server_connected", families, err)
	}
	return families[0].GetMetric()[0].GetGauge().GetValue()
}

// TestRetry checks that retry continues until it succeeds, and ends early only
// for a permanent error or a cancelled context.
func TestRetry(t *testing.T) {
	a := &apiServer{}
	attempts := 0
	err := a.retry(t.Context(), func(context.Context) error {
		if attempts++; attempts < 2 {
			return apierrors.NewUnauthorized("expired")
		}
		return nil
	})
	if err != nil || attempts != 2 {
		t.Errorf("got %v after %d attempts, want nil after 2", err, attempts)
	}
	want := errors.New("another cluster")
	if err := a.retry(t.Context(), func(context.Context) error { return permanentError{want} }); !errors.Is(err, want) {
		t.Errorf("a permanent error: got %v, want %v", err, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = a.retry(ctx, func(context.Context) error { cancel(); return errors.New("unreachable") })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v, want %v", err, context.Canceled)
	}
}

func TestHealth(t *testing.T) {
	guarding, synced := make(chan struct{}), false
	a := &apiServer{problem: "it refuses connections"}
	h := healthHandler(guarding, a)
	want := func(path string, code int, body string) {
		t.Helper()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		if got := strings.TrimSpace(w.Body.String()); w.Code != code || got != body {
			t.Errorf("%s: got %d %q, want %d %q", path, w.Code, got, code, body)
		}
	}
	want("/healthz", 200, "ok")
	want("/readyz", 503, "waiting for the API server: it refuses connections")
	a.setProblem("")
	want("/readyz", 503, "waiting for the API server: the node's Bottles have not been read yet")
	a.setSynced(func(context.Context) bool { return synced })
	want("/readyz", 503, "waiting for the API server: the node's Bottles have not been read yet")
	synced = true
	want("/readyz", 200, "ok")
	close(guarding)
	want("/healthz", 503, "nothing guards the machines")
}
