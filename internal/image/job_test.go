// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/await"
)

// tarpit blocks the requests for some paths until it is opened or they are
// cancelled.
type tarpit struct {
	match    func(path string) bool
	in, most atomic.Int64
	opened   chan struct{}
	// then answers the requests once the tarpit is opened; nil leaves them to
	// the registry.
	then func(w http.ResponseWriter, r *http.Request) bool
}

func newTarpit(s *server, match func(path string) bool) *tarpit {
	p := &tarpit{match: match, opened: make(chan struct{})}
	s.setFault(p.serve)
	return p
}

func (p *tarpit) serve(w http.ResponseWriter, r *http.Request) bool {
	if !p.match(r.URL.Path) {
		return false
	}
	n := p.in.Add(1)
	defer p.in.Add(-1)
	for most := p.most.Load(); n > most && !p.most.CompareAndSwap(most, n); most = p.most.Load() {
	}
	select {
	case <-p.opened:
		return p.then != nil && p.then(w, r)
	case <-r.Context().Done():
		return true
	}
}

func anyPath(string) bool { return true }

// manifests matches one request of each job that resolves a reference. The first
// request of a session is sent twice if the answer takes long.
func manifests(path string) bool { return strings.Contains(path, "/manifests/") }

// layerOf returns a function that matches the path of the image's first layer.
func layerOf(t *testing.T, img v1.Image) func(path string) bool {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	h, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	return func(path string) bool { return strings.HasSuffix(path, "/blobs/"+h.String()) }
}

// pulling expects a pull under way and returns its progress.
func (w *world) pulling(req host.ImageRequest) *host.Pulling {
	w.t.Helper()
	_, err := w.Get(w.t.Context(), req)
	var under *host.Pulling
	if !errors.As(err, &under) {
		w.t.Fatalf("%s: got %v, want a pull under way", req.Reference, err)
	}
	return under
}

func (w *world) running() (jobs, fetches int) {
	w.Store.mu.Lock()
	defer w.Store.mu.Unlock()
	return len(w.Store.jobs), len(w.Store.fetches)
}

// A tenant requests other images in a loop, or creates and deletes Bottles.
func TestOneBottleHasOnePull(t *testing.T) {
	w := newWorld(t)
	pit := newTarpit(w.reg, anyPath)
	for i := range 300 {
		w.pulling(w.request(fmt.Sprintf("demo%d:1", i), "a"))
		w.pulling(w.request(fmt.Sprintf("demo%d:2", i), fmt.Sprint("b", i)))
		w.Forget(fmt.Sprint("b", i))
	}
	if jobs, _ := w.running(); jobs != 1 {
		t.Errorf("got %d jobs, want only the last one", jobs)
	}
	await.True(t, "one request to be left", func() bool { return pit.in.Load() == 1 })
	// An invalid reference replaces the earlier request, too.
	if _, err := w.Get(t.Context(), host.ImageRequest{Reference: "NO SUCH", For: "a"}); !errors.Is(err, host.ErrInvalid) {
		t.Errorf("no reference: got %v, want ErrInvalid", err)
	}
	await.True(t, "no request to be left", func() bool { return pit.in.Load() == 0 })
	w.Close() // after this, no more Events are sent
	for _, e := range w.events {
		if !strings.Contains(e, ReasonPulling) {
			t.Errorf("got Event %q, want none about withdrawn requests", e)
		}
	}
}

// A slot that nobody needs any more goes to the next pull.
func TestPullEndsWithLastWaiter(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxPulls = 1 })
	img := newImage(t, "amd64", noise(1, 1<<20))
	w.reg.push(t, "large:1", img)
	w.reg.push(t, "demo:1", newImage(t, "amd64", "one"))
	pit := newTarpit(w.reg, layerOf(t, img))
	for _, uid := range []string{"a", "b"} {
		w.pulling(w.request("large:1", uid))
	}
	await.True(t, "the layer to be requested", func() bool { return pit.in.Load() == 1 })
	w.pulling(w.request("demo:1", "c"))
	w.Forget("a")
	if jobs, fetches := w.running(); jobs != 2 || fetches == 0 || pit.in.Load() != 1 {
		t.Errorf("with another waiter: got %d jobs and %d fetches, want them to go on", jobs, fetches)
	}
	w.Forget("b")
	await.True(t, "the request for the layer to be cancelled", func() bool { return pit.in.Load() == 0 })
	w.want(w.request("demo:1", "c"))
	w.wantClean()
	close(pit.opened)
	wantImage(t, w.want(w.request("large:1", "a")).Path, img)
}

// The job that started a fetch is withdrawn while another, with its own
// secrets, waits for the fetch.
func TestFetchContinuesForOthers(t *testing.T) {
	for name, fails := range map[string]bool{"fetch succeeds": false, "fetch fails and the others try themselves": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			img := newImage(t, "amd64", noise(1, 1<<20))
			w.reg.push(t, "demo:1", img)
			w.reg.setPrivate("demo", "alice:a-word", "bob:b-word")
			pit := newTarpit(w.reg, layerOf(t, img))
			want := 1
			if fails {
				want = 2
				pit.then = func(rw http.ResponseWriter, r *http.Request) bool {
					user, _, _ := r.BasicAuth()
					if user == "alice" {
						rw.WriteHeader(http.StatusNotFound)
					}
					return user == "alice"
				}
			}
			a, b := w.request("demo:1", "a"), w.request("demo:1", "b")
			a.PullSecrets = []host.PullSecret{secretFor(w.reg.host(), "alice:a-word")}
			b.PullSecrets = []host.PullSecret{secretFor(w.reg.host(), "bob:b-word")}
			w.pulling(a)
			await.True(t, "the layer to be requested", func() bool { return pit.in.Load() == 1 })
			for w.pulling(b).Total == 0 { // until it waits for the same fetch
				time.Sleep(2 * time.Millisecond)
			}
			w.Forget("a")
			if n := pit.in.Load(); n != 1 {
				t.Errorf("got %d requests for the layer, want the first to go on", n)
			}
			close(pit.opened)
			wantImage(t, w.want(b).Path, img)
			n := 0
			for _, r := range w.reg.requests {
				if path, ok := strings.CutPrefix(r, "GET "); ok && pit.match(path) {
					n++
				}
			}
			if n != want {
				t.Errorf("got %d requests for the layer, want %d", n, want)
			}
		})
	}
}

// A prewarm has no waiters, and goes on when the Bottles that joined it leave.
func TestPrewarmIsNotCancelled(t *testing.T) {
	w := newWorld(t)
	w.reg.push(t, "demo:1", newImage(t, "amd64", "one"))
	pit := newTarpit(w.reg, anyPath)
	done := make(chan error, 1)
	go func() { done <- w.Prewarm(t.Context(), []string{w.request("demo:1", "").Reference}) }()
	await.True(t, "the registry to be queried", func() bool { return pit.in.Load() == 1 })
	w.pulling(w.request("demo:1", "a"))
	w.Forget("a")
	if jobs, _ := w.running(); jobs != 1 {
		t.Errorf("got %d jobs, want the one of the prewarm", jobs)
	}
	close(pit.opened)
	if err := <-done; err != nil {
		t.Errorf("got %v, want the image", err)
	}
	if n := w.reg.count("/v2/demo/blobs/"); n != 2 {
		t.Errorf("got %d requests for blobs, want 2", n)
	}
}

func TestResolvesAreBounded(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxPulls = 1 })
	img := newImage(t, "amd64", "one")
	pit := newTarpit(w.reg, manifests)
	const all = minResolves + 5
	request := func(i int) host.ImageRequest {
		req := w.request(fmt.Sprintf("demo%d:1", i), fmt.Sprint(i))
		req.Namespace = fmt.Sprint("team-", i)
		return req
	}
	for i := range all {
		w.reg.push(t, fmt.Sprintf("demo%d:1", i), img)
		w.pulling(request(i))
	}
	await.True(t, "all slots to be taken", func() bool { return pit.in.Load() == minResolves })
	await.True(t, "the requests without a slot to report that they wait", func() bool {
		waiting := 0
		for i := range all {
			if strings.Contains(w.pulling(request(i)).Message, "waiting for other images; the node resolves at most 16 at a time") {
				waiting++
			}
		}
		return waiting == all-minResolves
	})
	close(pit.opened)
	for i := range all {
		w.want(request(i))
	}
	if n := pit.most.Load(); n != minResolves {
		t.Errorf("got %d concurrent resolves, want %d", n, minResolves)
	}
}
