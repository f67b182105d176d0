// SPDX-License-Identifier: Apache-2.0

package namedwatch_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"botbottle.dev/bottle-operator/internal/namedwatch"
)

// patience is how long tests wait for what must happen. Nothing depends on its value.
const patience = 30 * time.Second

var (
	a     = types.NamespacedName{Namespace: "ns", Name: "a"}
	b     = types.NamespacedName{Namespace: "ns", Name: "b"}
	creds = namedwatch.Ref{Kind: namedwatch.Secret, Namespace: "ns", Name: "creds"}
	conf  = namedwatch.Ref{Kind: namedwatch.ConfigMap, Namespace: "ns", Name: "conf"}
)

// server is an API server for Secrets and ConfigMaps that records its requests.
type server struct {
	mu       sync.Mutex
	version  int
	objects  map[string]map[string]string // data by "secrets/ns/name"
	watchers map[chan []byte]string
	requests []*http.Request
	refuse   bool
}

// start runs a server, and watches against it. The function that it returns
// returns the names of the users that were notified so far.
func start(t *testing.T) (*server, *namedwatch.Watches, func() []string) {
	t.Helper()
	s := &server{version: 1, objects: map[string]map[string]string{}, watchers: map[chan []byte]string{}}
	web := httptest.NewServer(s)
	core, err := corev1client.NewForConfig(&rest.Config{Host: web.URL})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var notified []string
	w := namedwatch.New(core.RESTClient(), func(user types.NamespacedName) {
		mu.Lock()
		defer mu.Unlock()
		notified = append(notified, user.Name)
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("end of the watches: got %v, want nil", err)
		}
		web.CloseClientConnections()
		web.Close()
	})
	return s, w, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(notified)
	}
}

// put changes an object, or removes it if data is nil, and notifies watchers.
func (s *server) put(kind, name string, data map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := kind + "/ns/" + name
	event := "MODIFIED"
	if s.objects[k] == nil {
		event = "ADDED"
	}
	s.version++
	if data == nil {
		event = "DELETED"
		delete(s.objects, k)
	} else {
		s.objects[k] = data
	}
	for ch, watched := range s.watchers {
		if watched == k {
			ch <- line(event, s.object(kind, name, data))
		}
	}
}

func line(event string, object any) []byte {
	data, _ := json.Marshal(map[string]any{"type": event, "object": object})
	return append(data, '\n')
}

func (s *server) object(kind, name string, data map[string]string) any {
	om := metav1.ObjectMeta{Namespace: "ns", Name: name, ResourceVersion: time.Unix(int64(s.version), 0).Format("150405")}
	om.ResourceVersion = "1" + om.ResourceVersion
	if kind == "configmaps" {
		return corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: om, Data: data}
	}
	bytes := map[string][]byte{}
	for k, v := range data {
		bytes[k] = []byte(v)
	}
	return corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: om, Data: bytes}
}

// ServeHTTP answers lists and watches of one name.
func (s *server) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, req.Clone(context.Background()))
	refuse := s.refuse
	s.mu.Unlock()
	rw.Header().Set("Content-Type", "application/json")
	name, ok := strings.CutPrefix(req.URL.Query().Get("fieldSelector"), "metadata.name=")
	if !ok || refuse {
		rw.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(rw).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Code: 403, Reason: "Forbidden", Message: "secrets are forbidden"})
		return
	}
	kind := req.URL.Path[strings.LastIndex(req.URL.Path, "/")+1:]
	if req.URL.Query().Get("watch") == "" {
		s.list(rw, kind, name)
		return
	}
	s.watch(rw, req, kind, name)
}

func (s *server) list(rw http.ResponseWriter, kind, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	items := []any{}
	if data := s.objects[kind+"/ns/"+name]; data != nil {
		items = append(items, s.object(kind, name, data))
	}
	listKind := map[string]string{"secrets": "SecretList", "configmaps": "ConfigMapList"}[kind]
	_ = json.NewEncoder(rw).Encode(map[string]any{"apiVersion": "v1", "kind": listKind,
		"metadata": map[string]any{"resourceVersion": "1"}, "items": items})
}

func (s *server) watch(rw http.ResponseWriter, req *http.Request, kind, name string) {
	if req.URL.Query().Get("sendInitialEvents") != "" {
		// Answer as an API server that does not support streaming lists.
		rw.WriteHeader(http.StatusUnprocessableEntity)
		_ = json.NewEncoder(rw).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Code: 422, Reason: "Invalid"})
		return
	}
	ch := make(chan []byte, 16)
	s.mu.Lock()
	s.watchers[ch] = kind + "/ns/" + name
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.watchers, ch)
		s.mu.Unlock()
	}()
	flush := rw.(http.Flusher)
	flush.Flush()
	for {
		select {
		case data, ok := <-ch:
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

func (s *server) watching() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.watchers)
}

// look waits until an object's state is known, and returns its data.
func look(t *testing.T, w *namedwatch.Watches, ref namedwatch.Ref) map[string]string {
	t.Helper()
	state := func() namedwatch.State { return w.Look(ref).State }
	gomega.NewWithT(t).Eventually(state, patience).ShouldNot(gomega.Equal(namedwatch.Unread))
	out := map[string]string{}
	for k, v := range w.Look(ref).Data {
		out[k] = string(v)
	}
	return out
}

func TestObjectsAreRequestedByName(t *testing.T) {
	s, w, _ := start(t)
	s.put("secrets", "creds", map[string]string{"token": "hush"})
	s.put("secrets", "other", map[string]string{"token": "not ours"})
	s.put("configmaps", "conf", map[string]string{"mode": "small"})
	w.Use(a, []namedwatch.Ref{creds, conf})
	if d := cmp.Diff(map[string]string{"token": "hush"}, look(t, w, creds)); d != "" {
		t.Errorf("Secret (-want +got):\n%s", d)
	}
	if d := cmp.Diff(map[string]string{"mode": "small"}, look(t, w, conf)); d != "" {
		t.Errorf("ConfigMap (-want +got):\n%s", d)
	}
	g := gomega.NewWithT(t)
	g.Eventually(s.watching, patience).Should(gomega.Equal(2))
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.requests) < 4 {
		t.Fatalf("requests: got %d, want a list and a watch of each", len(s.requests))
	}
	for _, r := range s.requests {
		want := map[string]string{"/api/v1/namespaces/ns/secrets": "metadata.name=creds", "/api/v1/namespaces/ns/configmaps": "metadata.name=conf"}[r.URL.Path]
		if got := r.URL.Query().Get("fieldSelector"); r.Method != http.MethodGet || want == "" || got != want {
			t.Errorf("request: got %s %s, want a GET of one name", r.Method, r.URL)
		}
	}
}

func TestUsersAreNotifiedOfChanges(t *testing.T) {
	s, w, notified := start(t)
	g := gomega.NewWithT(t)
	w.Use(a, []namedwatch.Ref{creds})
	w.Use(b, []namedwatch.Ref{creds})
	look(t, w, creds)
	if got := w.Look(creds).State; got != namedwatch.NotFound {
		t.Fatalf("state: got %v, want %v", got, namedwatch.NotFound)
	}
	g.Eventually(s.watching, patience).Should(gomega.Equal(1))
	g.Eventually(notified, patience).Should(gomega.ConsistOf("a", "b"), "of the first state")
	s.put("secrets", "creds", map[string]string{"token": "one"})
	g.Eventually(notified, patience).Should(gomega.ConsistOf("a", "b", "a", "b"))
	if d := cmp.Diff(map[string]string{"token": "one"}, look(t, w, creds)); d != "" {
		t.Errorf("Secret (-want +got):\n%s", d)
	}
	w.Use(b, nil)
	s.put("secrets", "creds", map[string]string{"token": "two"})
	g.Eventually(notified, patience).Should(gomega.ConsistOf("a", "b", "a", "b", "a"))
	s.put("secrets", "creds", nil)
	g.Eventually(notified, patience).Should(gomega.ConsistOf("a", "b", "a", "b", "a", "a"))
	if got := w.Look(creds); got.State != namedwatch.NotFound || got.Data != nil {
		t.Errorf("after its deletion: got state %v and %d keys, want %v and none", got.State, len(got.Data), namedwatch.NotFound)
	}
}

func TestUnusedObjectsAreNotWatched(t *testing.T) {
	s, w, _ := start(t)
	g := gomega.NewWithT(t)
	w.Use(a, []namedwatch.Ref{creds, conf})
	w.Use(b, []namedwatch.Ref{creds})
	g.Eventually(s.watching, patience).Should(gomega.Equal(2))
	w.Use(a, []namedwatch.Ref{conf})
	if got := w.Len(); got != 2 {
		t.Errorf("watches: got %d, want 2: b uses the Secret", got)
	}
	w.Use(b, nil)
	w.Use(a, nil)
	if got := w.Len(); got != 0 {
		t.Errorf("watches: got %d, want none", got)
	}
	g.Eventually(s.watching, patience).Should(gomega.Equal(0))
	if got := w.Look(creds); got.State != namedwatch.Unread || got.Data != nil {
		t.Errorf("without users: got state %v and %d keys, want %v and none", got.State, len(got.Data), namedwatch.Unread)
	}
	// And again.
	s.put("secrets", "creds", map[string]string{"token": "three"})
	w.Use(a, []namedwatch.Ref{creds})
	if d := cmp.Diff(map[string]string{"token": "three"}, look(t, w, creds)); d != "" {
		t.Errorf("Secret (-want +got):\n%s", d)
	}
}

// A right that is missing or taken away is noticed, and so is one that is granted
// later.
func TestForbiddenObjects(t *testing.T) {
	s, w, _ := start(t)
	g := gomega.NewWithT(t)
	state := func() namedwatch.State { return w.Look(creds).State }
	setRefuse := func(refuse bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.refuse = refuse
		if refuse {
			for ch := range s.watchers {
				close(ch) // the API server ends each watch after some minutes
			}
		}
	}
	s.put("secrets", "creds", map[string]string{"token": "one"})
	setRefuse(true)
	w.Use(a, []namedwatch.Ref{creds})
	g.Eventually(state, patience).Should(gomega.Equal(namedwatch.Forbidden))
	setRefuse(false)
	g.Eventually(state, patience).Should(gomega.Equal(namedwatch.Present))
	g.Eventually(s.watching, patience).Should(gomega.Equal(1))
	setRefuse(true)
	g.Eventually(state, patience).Should(gomega.Equal(namedwatch.Forbidden))
	if got := w.Look(creds).Data; got != nil {
		t.Errorf("data without the right to read it: got %d keys, want none", len(got))
	}
	states, _ := w.Totals()
	if d := cmp.Diff(map[namedwatch.State]int{namedwatch.Forbidden: 1}, states); d != "" {
		t.Errorf("states (-want +got):\n%s", d)
	}
}

func TestUseBeforeStart(t *testing.T) {
	w := namedwatch.New(nil, func(types.NamespacedName) {})
	w.Use(a, []namedwatch.Ref{creds})
	if got := w.Look(creds).State; got != namedwatch.Unread {
		t.Errorf("state: got %v, want %v", got, namedwatch.Unread)
	}
	w.Use(a, nil)
}
