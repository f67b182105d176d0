// SPDX-License-Identifier: Apache-2.0

package envwatch_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	bottlev1alpha1 "botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/envsource"
	"botbottle.dev/bottle-operator/internal/envwatch"
	"botbottle.dev/bottle-operator/internal/namedwatch"
	"botbottle.dev/bottle-operator/test/builders"
)

const patience = 30 * time.Second

// manager is the API of the manager: it accepts watches, and sends what a test wants.
type manager struct {
	mu       sync.Mutex
	refuse   bool
	streams  map[chan []byte]bool
	requests []string
	registry *prometheus.Registry // of the Source
}

// start runs a manager and a Source of it. The function that it returns returns the
// names of the Bottles whose environments changed so far.
func start(t *testing.T) (*manager, *envwatch.Source, func() []string) {
	t.Helper()
	m := &manager{streams: map[chan []byte]bool{}, registry: prometheus.NewRegistry()}
	metrics, err := envwatch.NewMetrics(m.registry)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(m)
	client, err := envwatch.NewClient(&rest.Config{Host: web.URL}, web.Client())
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var changed []string
	s := envwatch.New(envwatch.Options{Client: client, Log: logr.Discard(), Metrics: metrics, Changed: func(b types.NamespacedName) {
		mu.Lock()
		defer mu.Unlock()
		changed = append(changed, b.Name)
	}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("end of the watch: got %v, want nil", err)
		}
		web.CloseClientConnections()
		web.Close()
	})
	return m, s, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(changed)
	}
}

func (m *manager) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	rw.Header().Set("Content-Type", "application/json")
	stream := make(chan []byte, 64)
	m.mu.Lock()
	m.requests = append(m.requests, req.URL.String())
	refuse := m.refuse
	if !refuse {
		m.streams[stream] = true
	}
	m.mu.Unlock()
	if refuse {
		rw.WriteHeader(http.StatusServiceUnavailable)
		_ = json.NewEncoder(rw).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Code: 503, Reason: "ServiceUnavailable"})
		return
	}
	flush := rw.(http.Flusher)
	flush.Flush()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.streams, stream)
	}()
	for {
		select {
		case data, ok := <-stream:
			if !ok {
				return
			}
			_, _ = rw.Write(data)
			flush.Flush()
		case <-req.Context().Done():
			return
		}
	}
}

// send sends an event to the watch, and waits until there is one.
func (m *manager) send(t *testing.T, event string, env v1alpha1.BottleEnvironment) {
	t.Helper()
	env.APIVersion, env.Kind = v1alpha1.GroupVersion.String(), "BottleEnvironment"
	object, err := json.Marshal(env)
	if err != nil {
		t.Fatal(err)
	}
	line := fmt.Appendf(nil, `{"type":%q,"object":%s}`+"\n", event, object)
	gomega.NewWithT(t).Eventually(func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		for stream := range m.streams {
			stream <- line
			return true
		}
		return false
	}, patience).Should(gomega.BeTrue(), "a watch")
}

func (m *manager) complete(t *testing.T) {
	t.Helper()
	m.send(t, "BOOKMARK", v1alpha1.BottleEnvironment{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}}})
}

// away ends all watches, and accepts new ones only if away is false.
func (m *manager) away(t *testing.T, away bool) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refuse = away
	for stream := range m.streams {
		close(stream)
		delete(m.streams, stream)
	}
}

// env returns an environment of the Bottle a, with the Secret s.
func env(generation int64, state v1alpha1.ObjectState, data map[string]string) v1alpha1.BottleEnvironment {
	o := v1alpha1.EnvironmentObject{Kind: "Secret", Name: "s", State: state}
	for k, v := range data {
		if o.Data == nil {
			o.Data = map[string][]byte{}
		}
		o.Data[k] = []byte(v)
	}
	return v1alpha1.BottleEnvironment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"},
		BottleUID:  "ua", ObservedGeneration: generation, Objects: []v1alpha1.EnvironmentObject{o},
	}
}

// bottle returns the Bottle a, which takes these keys of the Secret s.
func bottle(generation int64, keys ...string) *bottlev1alpha1.Bottle {
	b := builders.MakeBottle("a").Namespace("default")
	for i, key := range keys {
		b = b.EnvFromSecret(fmt.Sprint("T", i), "s", key)
	}
	out := b.Obj()
	out.UID, out.Generation = "ua", generation
	return out
}

var ref = namedwatch.Ref{Kind: namedwatch.Secret, Namespace: "default", Name: "s"}

// value returns a function that gets the value of a key, or the kind of the error.
func value(t *testing.T, s *envwatch.Source, b *bottlev1alpha1.Bottle, key string) func() string {
	return func() string {
		data, err := s.Get(t.Context(), b, ref)
		for _, kind := range []error{envsource.ErrNotYet, envsource.ErrNotFound, envsource.ErrForbidden, envsource.ErrTooLarge} {
			if errors.Is(err, kind) {
				return kind.Error()
			}
		}
		if err != nil {
			return err.Error()
		}
		return string(data[key])
	}
}

func TestWhatTheManagerSaysIsKnown(t *testing.T) {
	m, s, changed := start(t)
	g := gomega.NewWithT(t)
	b := bottle(1, "k")
	get := value(t, s, b, "k")
	m.send(t, "ADDED", env(1, v1alpha1.ObjectPresent, map[string]string{"k": "one"}))
	m.complete(t)
	g.Eventually(get, patience).Should(gomega.Equal("one"))
	m.send(t, "MODIFIED", env(1, v1alpha1.ObjectPresent, map[string]string{"k": "two"}))
	g.Eventually(get, patience).Should(gomega.Equal("two"))
	for state, want := range map[v1alpha1.ObjectState]error{
		v1alpha1.ObjectNotFound: envsource.ErrNotFound, v1alpha1.ObjectForbidden: envsource.ErrForbidden, v1alpha1.ObjectTooLarge: envsource.ErrTooLarge,
	} {
		m.send(t, "MODIFIED", env(1, state, nil))
		g.Eventually(get, patience).Should(gomega.Equal(want.Error()))
	}
	before := len(changed())
	m.send(t, "DELETED", env(1, v1alpha1.ObjectPresent, nil))
	g.Eventually(changed, patience).Should(gomega.HaveLen(before + 1))
	m.away(t, true) // so that Get does not wait
	g.Eventually(get, patience).Should(gomega.Equal(envsource.ErrNotYet.Error()))
	for _, name := range changed() {
		if name != "a" {
			t.Errorf("changed: got %q, want a", name)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.requests {
		if !strings.HasPrefix(r, "/apis/subresources.botbottle.dev/v1alpha1/bottleenvironments?") || !strings.Contains(r, "watch=true") {
			t.Errorf("request: got %s, want a watch of all environments", r)
		}
	}
}

func TestTheEnvironmentMustBeThatOfTheBottle(t *testing.T) {
	m, s, _ := start(t)
	g := gomega.NewWithT(t)
	m.send(t, "ADDED", env(2, v1alpha1.ObjectPresent, map[string]string{"k": "one"}))
	m.complete(t)
	g.Eventually(value(t, s, bottle(2, "k"), "k"), patience).Should(gomega.Equal("one"))
	m.away(t, true)
	other := bottle(2, "k")
	other.UID = "ub"
	for name, tt := range map[string]struct {
		bottle *bottlev1alpha1.Bottle
		key    string
		want   string
	}{
		"another Bottle of the same name":      {other, "k", envsource.ErrNotYet.Error()},
		"an older generation":                  {bottle(1, "k"), "k", "one"},
		"a newer one that names the same":      {bottle(3, "k"), "k", "one"},
		"a newer one that names another key":   {bottle(3, "k", "new"), "new", envsource.ErrNotYet.Error()},
		"this generation, and the key is gone": {bottle(2, "k", "gone"), "gone", ""},
	} {
		g.Eventually(value(t, s, tt.bottle, tt.key), patience).Should(gomega.Equal(tt.want), name)
	}
}

func TestGetWaitsForWhatIsOnItsWay(t *testing.T) {
	m, s, _ := start(t)
	m.complete(t)
	got := make(chan string)
	go func() { got <- value(t, s, bottle(1, "k"), "k")() }()
	m.send(t, "ADDED", env(1, v1alpha1.ObjectPresent, map[string]string{"k": "one"}))
	if g := <-got; g != "one" {
		t.Errorf("got %q, want the value that arrived meanwhile", g)
	}
}

func TestTheManagerIsAway(t *testing.T) {
	m, s, changed := start(t)
	g := gomega.NewWithT(t)
	get := value(t, s, bottle(1, "k"), "k")
	m.send(t, "ADDED", env(1, v1alpha1.ObjectPresent, map[string]string{"k": "one"}))
	b := env(1, v1alpha1.ObjectPresent, map[string]string{"k": "of b"})
	b.Name = "b"
	m.send(t, "ADDED", b)
	m.complete(t)
	g.Eventually(changed, patience).Should(gomega.ConsistOf("a", "b"))
	m.away(t, true)
	requests := func() int {
		m.mu.Lock()
		defer m.mu.Unlock()
		return len(m.requests)
	}
	g.Eventually(requests, patience).Should(gomega.BeNumerically(">", 2), "attempts to watch")
	if got := get(); got != "one" {
		t.Errorf("while the manager is away: got %q, want what was known", got)
	}
	// It returns: a replica that has not read the Secret yet, and b has moved.
	m.away(t, false)
	m.send(t, "ADDED", env(1, v1alpha1.ObjectPending, nil))
	m.complete(t)
	g.Eventually(changed, patience).Should(gomega.ConsistOf("a", "b", "b"))
	if got := get(); got != "one" {
		t.Errorf("while the replica has not read the Secret: got %q, want what was known", got)
	}
	m.send(t, "MODIFIED", env(1, v1alpha1.ObjectPresent, map[string]string{"k": "new"}))
	g.Eventually(get, patience).Should(gomega.Equal("new"))
	// A replica that lags behind.
	m.send(t, "MODIFIED", env(3, v1alpha1.ObjectPresent, map[string]string{"k": "three"}))
	g.Eventually(get, patience).Should(gomega.Equal("three"))
	m.away(t, false)
	m.send(t, "ADDED", env(2, v1alpha1.ObjectPresent, map[string]string{"k": "two"}))
	m.complete(t)
	m.send(t, "ADDED", b)
	g.Eventually(changed, patience).Should(gomega.ConsistOf("a", "b", "b", "a", "a", "b"))
	if got := get(); got != "three" {
		t.Errorf("after an older generation: got %q, want the newer one's", got)
	}
}

func TestMetrics(t *testing.T) {
	m, _, _ := start(t)
	g := gomega.NewWithT(t)
	metric := func(name string) func() float64 {
		return func() float64 {
			families, err := m.registry.Gather()
			if err != nil {
				t.Error(err)
			}
			for _, f := range families {
				if f.GetName() == "bottle_agent_environment"+name {
					return f.Metric[0].GetGauge().GetValue() + f.Metric[0].GetCounter().GetValue()
				}
			}
			return -1
		}
	}
	m.send(t, "ADDED", env(1, v1alpha1.ObjectPresent, map[string]string{"key": "value"}))
	m.complete(t)
	g.Eventually(metric("_watch_connected"), patience).Should(gomega.Equal(1.0))
	g.Expect(metric("_watch_last_event_timestamp_seconds")()).To(gomega.BeNumerically(">", 1e9))
	g.Expect(metric("s")()).To(gomega.Equal(1.0))
	g.Expect(metric("_bytes")()).To(gomega.Equal(8.0))
	m.away(t, true)
	g.Eventually(metric("_watch_connected"), patience).Should(gomega.Equal(0.0))
	g.Eventually(metric("_watch_failures_total"), patience).Should(gomega.BeNumerically(">=", 1))
	problems, err := testutil.GatherAndLint(m.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}
