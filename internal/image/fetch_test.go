// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/test/await"
)

// slow is a timeout that a busy machine does not exceed.
const slow = 4 * time.Second

// The wait for other pulls may be longer than the timeout of a pull.
func TestQueueTimeIsNotPullTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *Options) { o.MaxPulls, o.PullTimeout = 1, slow })
	w.reg.push(t, "demo:1", newImage(t, "amd64", "one"))
	busy := w.slots.Enter("other")
	req := w.request("demo:1", "a")
	await.True(t, "the pull to wait", func() bool { return strings.Contains(w.pulling(req).Message, "waiting for other images") })
	time.Sleep(w.o.PullTimeout + 100*time.Millisecond)
	if got := w.pulling(req).Message; !strings.Contains(got, "waiting for other images; the node pulls at most 1 at a time") {
		t.Errorf("got %q, want it still waiting", got)
	}
	pit := newTarpit(w.reg, func(path string) bool { return strings.Contains(path, "/blobs/") })
	busy.Release()
	await.True(t, "the config to be requested", func() bool { return pit.in.Load() == 1 })
	if got, want := w.pulling(req).Message, "pulling image "+req.Reference+" from "+w.reg.host(); got != want {
		t.Errorf("its turn: got %q, want %q", got, want)
	}
	close(pit.opened)
	w.want(req)
}

// Each part of a pull has its own timeout, and so does the next pull.
func TestTimeouts(t *testing.T) {
	for name, tt := range map[string]struct {
		match   func(path string) bool
		timeout time.Duration // what comes before the tarpit must end within it
		text    string
	}{
		"resolving": {anyPath, 300 * time.Millisecond, "took more than 300ms to resolve the image: check the connection to it, or raise --image-pull-timeout"},
		"fetching":  {func(path string) bool { return strings.Contains(path, "/blobs/") }, slow, "the pull took too long: check the connection, or raise --image-pull-timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(o *Options) { o.PullTimeout = tt.timeout })
			w.reg.push(t, "demo:1", newImage(t, "amd64", "one"))
			newTarpit(w.reg, tt.match)
			w.wantFailed(w.request("demo:1", "a"), "registry "+w.reg.host(), tt.text)
			w.Close()
			w.o.PullTimeout = time.Minute
			w.open()
			w.reg.setFault(nil)
			w.want(w.request("demo:1", "a"))
		})
	}
}

// A registry that sends a byte now and then must not keep a slot.
func TestSlowBlobIsAbandoned(t *testing.T) {
	w := newWorld(t)
	img := newImage(t, "amd64", noise(1, 4<<20))
	w.reg.push(t, "demo:1", img)
	layer := layerOf(t, img)
	w.reg.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
		if !layer(r.URL.Path) {
			return false
		}
		rw.Header().Set("Content-Length", "4000000")
		for r.Context().Err() == nil {
			rw.Write(bytes.Repeat([]byte{0}, 10))
			http.NewResponseController(rw).Flush()
			time.Sleep(5 * time.Millisecond)
			w.clock.Step(stallTimeout - time.Second)
		}
		return true
	})
	w.pulling(w.request("demo:1", "a"))
	await.True(t, "an Event of the failure", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, e := range w.events {
			if strings.HasPrefix(e, "a Failed ") && strings.Contains(e, "registry "+w.reg.host()+": the pull was too slow") && strings.Contains(e, "want at least 1 MiB a minute") {
				return true
			}
		}
		return false
	})
}

// Waiters are notified of the total as soon as it is known.
func TestTotalIsReported(t *testing.T) {
	w := newWorld(t)
	img := newImage(t, "amd64", noise(1, 1<<20))
	w.reg.push(t, "demo:1", img)
	pit := newTarpit(w.reg, layerOf(t, img))
	notified := make(chan string, 100)
	go w.WatchImages(t.Context(), func(uid string) { notified <- uid })
	<-notified
	req := w.request("demo:1", "a")
	w.pulling(req)
	select {
	case uid := <-notified:
		if got := w.pulling(req); uid != "a" || got.Total == 0 || !strings.Contains(got.Message, " 0% of 1 MiB") {
			t.Errorf("got a notification for %q and %q, want the total", uid, got.Message)
		}
	case <-time.After(20 * time.Second):
		t.Error("got no notification within 20 s, want the total")
	}
	close(pit.opened)
	w.want(req)
}

// If a mirror fails in the middle of a pull, its progress no longer counts.
func TestNextEndpointStartsOver(t *testing.T) {
	mirror := newServer(t)
	w := newWorld(t)
	w.Close()
	w.o.Mirrors = []string{w.reg.host() + "=" + mirror.host()}
	w.open()
	b, img := pushBroken(t, w, "demo:1", false)
	mirror.push(t, "demo:1", img)
	b.after = 2 << 20
	mirror.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
		if b.requests.Load() > 0 && r.URL.Path == b.path {
			rw.WriteHeader(http.StatusNotFound)
			return true
		}
		return b.serve(rw, r)
	})
	pit := newTarpit(w.reg, anyPath)
	req := w.request("demo:1", "a")
	if got, want := w.pulling(req).Message, "pulling image "+req.Reference+": querying "+mirror.host(); got != want && !strings.Contains(got, "%") {
		t.Errorf("the mirror: got %q, want %q", got, want)
	}
	await.True(t, "the registry to be queried", func() bool { return pit.in.Load() == 1 })
	got, want := w.pulling(req), "pulling image "+req.Reference+": querying "+w.reg.host()
	if got.Message != want || got.Done != 0 || got.Total != 0 {
		t.Errorf("the registry: got %+v, want %q", got, want)
	}
	close(pit.opened)
	wantImage(t, w.want(req).Path, img)
}
