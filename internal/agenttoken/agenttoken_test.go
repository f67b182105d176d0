// SPDX-License-Identifier: Apache-2.0

package agenttoken

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/clock"
)

const week = 168 * time.Hour

// tokenOf returns an unsigned token.
func tokenOf(node, uid string, issued time.Time, life time.Duration) string {
	claims := map[string]any{"namespace": "ns", "serviceaccount": map[string]any{"name": "bottle-agent"}}
	if node != "" {
		claims["node"] = map[string]any{"name": node, "uid": uid}
	}
	body, err := json.Marshal(map[string]any{"iat": issued.Unix(), "exp": issued.Add(life).Unix(), "kubernetes.io": claims})
	if err != nil {
		panic(err)
	}
	return "e30." + base64.RawURLEncoding.EncodeToString(body) + ".c2ln"
}

func TestParse(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	got, err := Parse(tokenOf("node-a", "u", now, time.Hour) + "\n")
	want := Claims{Namespace: "ns", ServiceAccount: "bottle-agent", Node: "node-a", NodeUID: "u", Issued: now, Expires: now.Add(time.Hour)}
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{"", "hunter22", "a.b.c", "a.hunter22.c", "e30.e30.e30", tokenOf("n", "u", now, 0)} {
		if _, err := Parse(bad); err == nil || strings.Contains(err.Error(), "hunter22") {
			t.Errorf("%q: got %v, want an error that does not quote it", bad, err)
		}
	}
}

// world is an API server that makes tokens, and a Renewer.
type world struct {
	*Renewer
	registry *prometheus.Registry

	mu       sync.Mutex
	requests []authenticationv1.TokenRequestSpec
	fail     error
	life     time.Duration // of the tokens that the server makes; 0 means as requested
	log      bytes.Buffer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{registry: prometheus.NewRegistry()}
	metrics, err := NewMetrics(w.registry)
	if err != nil {
		t.Fatal(err)
	}
	w.Renewer = New(Options{
		File: filepath.Join(t.TempDir(), "token"), Node: "node-a", Lifetime: week, Request: w.create, Clock: clock.RealClock{},
		Log: funcr.New(func(prefix, args string) { fmt.Fprintln(&w.log, prefix, args) }, funcr.Options{}), Metrics: metrics,
	})
	return w
}

func (w *world) create(_ context.Context, _, _ string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail != nil {
		return nil, w.fail
	}
	w.requests = append(w.requests, request.Spec)
	life := w.life
	if life == 0 {
		life = time.Duration(*request.Spec.ExpirationSeconds) * time.Second
	}
	ref := request.Spec.BoundObjectRef
	return &authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{
		Token: tokenOf(ref.Name, string(ref.UID), time.Now(), life),
	}}, nil
}

func (w *world) setFail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail = err
}

func (w *world) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.requests)
}

// run runs the Renewer until the test ends, beginning with a token.
func (w *world) run(t *testing.T, token string) {
	t.Helper()
	if err := os.WriteFile(w.File, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); w.Start(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	synctest.Wait()
}

func (w *world) claims(t *testing.T) Claims {
	t.Helper()
	token, err := Read(w.File)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse(token)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// metric returns the value of a metric.
func (w *world) metric(t *testing.T, name string) float64 {
	t.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	t.Fatalf("got no metric %s", name)
	return 0
}

// pass lets time pass.
func pass(d time.Duration) { time.Sleep(d); synctest.Wait() }

// A token that somebody made for an hour is replaced at once with one for a week. From
// then on, the token is renewed each time a tenth of its life has passed.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.run(t, tokenOf("node-a", "u", time.Now(), time.Hour))
		if c := w.claims(t); w.count() != 1 || c.Expires.Sub(c.Issued) != week {
			t.Fatalf("after the start: got %d requests and %+v, want one for a week", w.count(), c)
		}
		spec := w.requests[0]
		if ref := spec.BoundObjectRef; ref == nil || ref.APIVersion != "v1" || ref.Kind != "Node" || ref.Name != "node-a" || ref.UID != "u" || spec.Audiences != nil {
			t.Errorf("got the request %+v, want one bound to the Node by UID, without audiences", spec)
		}
		if info, err := os.Stat(w.File); err != nil || info.Mode() != 0o600 {
			t.Errorf("got mode %v, %v, want 0600", info.Mode(), err)
		}
		pass(16 * time.Hour)
		if got := w.count(); got != 1 {
			t.Errorf("after 16 h: got %d requests, want 1", got)
		}
		pass(2 * time.Hour)
		if got := w.count(); got != 2 {
			t.Errorf("after 18 h: got %d requests, want 2", got)
		}
		if got, want := w.metric(t, "bottle_agent_token_expiration_timestamp_seconds"), float64(w.claims(t).Expires.Unix()); got != want {
			t.Errorf("metric: got %v, want %v", got, want)
		}
	})
}

// An API server may shorten tokens. That must not cause a request at every step.
func TestShortenedTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.life = 10 * time.Hour
		w.run(t, tokenOf("node-a", "u", time.Now(), time.Hour))
		pass(59 * time.Minute)
		if got := w.count(); got != 1 {
			t.Errorf("after 59 m: got %d requests, want 1", got)
		}
		pass(10 * time.Minute)
		if got := w.count(); got != 2 {
			t.Errorf("after 69 m: got %d requests, want 2", got)
		}
	})
}

func TestFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.setFail(errors.New("no route"))
		w.run(t, tokenOf("node-a", "u", time.Now(), time.Hour))
		pass(time.Hour)
		failures := w.metric(t, "bottle_agent_token_renewal_failures_total")
		if failures < 12 || failures > 40 {
			t.Errorf("failures in an hour: got %v, want pauses that grow to 5 m", failures)
		}
		if n := strings.Count(w.log.String(), "no route"); n != 1 {
			t.Errorf("log: got the failure %d times, want once in\n%s", n, w.log.String())
		}
		w.setFail(apierrors.NewUnauthorized("hunter22"))
		pass(6 * time.Minute)
		if want := "kubectl -n ns create token bottle-agent --bound-object-kind Node --bound-object-name node-a"; !strings.Contains(w.log.String(), want) {
			t.Errorf("log: got no %q in\n%s", want, w.log.String())
		}
		w.setFail(nil)
		pass(6 * time.Minute)
		if got := w.count(); got != 1 {
			t.Errorf("after the failures: got %d requests, want 1", got)
		}
	})
}

// The Renewer requests nothing with a token of another Node or of none. It continues
// when somebody replaces the file.
func TestOtherTokens(t *testing.T) {
	for name, token := range map[string]func() string{
		"another Node": func() string { return tokenOf("node-b", "u", time.Now(), time.Hour) },
		"no Node":      func() string { return tokenOf("", "", time.Now(), time.Hour) },
		"no token":     func() string { return "hunter22" },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.run(t, token())
				pass(10 * time.Minute)
				if got := w.count(); got != 0 {
					t.Errorf("got %d requests, want none", got)
				}
				if log := w.log.String(); !strings.Contains(log, "cannot be renewed") || strings.Contains(log, "hunter22") {
					t.Errorf("got the log %q, want the problem without the token", log)
				}
				if err := os.WriteFile(w.File, []byte(tokenOf("node-a", "u", time.Now(), time.Hour)), 0o600); err != nil {
					t.Fatal(err)
				}
				pass(6 * time.Minute)
				if got := w.count(); got != 1 {
					t.Errorf("after the file was replaced: got %d requests, want 1", got)
				}
			})
		})
	}
}
