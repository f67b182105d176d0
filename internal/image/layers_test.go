// SPDX-License-Identifier: Apache-2.0

package image

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/await"
)

// blobPaths returns the paths of the image's layers in a repository.
func blobPaths(t *testing.T, repo string, img v1.Image) (out []string) {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		h, err := l.Digest()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, "/v2/"+repo+"/blobs/"+h.String())
	}
	return out
}

// layersKept returns the files of layers in the store.
func (w *world) layersKept() []string {
	w.t.Helper()
	files, err := filepath.Glob(filepath.Join(w.o.Dir, partialDir, "*", "*"))
	if err != nil {
		w.t.Fatal(err)
	}
	return files
}

// byteCounter counts the bytes of each blob that the registry sends.
type byteCounter struct {
	mu   sync.Mutex
	sent map[string]int
}

type countingWriter struct {
	http.ResponseWriter
	c    *byteCounter
	path string
}

func (c countingWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.c.mu.Lock()
	defer c.c.mu.Unlock()
	c.c.sent[c.path] += n
	return n, err
}

func (c *byteCounter) of(path string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent[path]
}

// A pull ends in the middle, in one of several ways. The next one fetches only what is
// missing: each byte is sent once.
func TestNextPullGoesOn(t *testing.T) {
	const after = 1 << 20
	for name, interrupt := range map[string]func(w *world, req host.ImageRequest, stuck *tarpit){
		"it fails": func(w *world, req host.ImageRequest, stuck *tarpit) {
			close(stuck.opened)
			w.wantFailed(req, "500")
		},
		"nobody waits for it": func(w *world, req host.ImageRequest, stuck *tarpit) {
			w.Forget(req.For)
			await.True(w.t, "the request to be cancelled", func() bool { return stuck.in.Load() == 0 })
		},
		"the agent restarts": func(w *world, _ host.ImageRequest, _ *tarpit) {
			w.Close()
			w.open()
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			img := newImage(t, "amd64", noise(1, 2<<20), noise(2, 2<<20), noise(3, 4<<20), noise(4, 1<<20))
			w.reg.push(t, "demo:1", img)
			paths := blobPaths(t, "demo", img)
			counter := &byteCounter{sent: map[string]int{}}
			count := func(rw http.ResponseWriter, r *http.Request) bool {
				w.reg.registry.ServeHTTP(countingWriter{rw, counter, r.URL.Path}, r)
				return true
			}
			stuck := &tarpit{match: func(path string) bool { return path == paths[2] }, opened: make(chan struct{})}
			stuck.then = func(rw http.ResponseWriter, _ *http.Request) bool {
				rw.WriteHeader(http.StatusInternalServerError)
				return true
			}
			begun := false
			w.reg.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != paths[2] {
					return count(rw, r)
				}
				if !begun { // send the start of the third layer
					begun = true
					w.reg.registry.ServeHTTP(&cuttingWriter{countingWriter{rw, counter, r.URL.Path}, after}, r)
				}
				return stuck.serve(rw, r)
			})
			req := w.request("demo:1", "a")
			w.pulling(req)
			await.True(t, "the pull to stop in the third layer", func() bool { return stuck.in.Load() > 0 })
			interrupt(w, req, stuck)
			w.wantClean()
			if n := len(w.layersKept()); n != 3 {
				t.Errorf("got %d layers kept, want three: %v", n, w.layersKept())
			}
			w.clock.Step(lastBackoff)
			w.reg.setFault(count)
			wantImage(t, w.want(req).Path, img)
			for i, path := range paths {
				layers, _ := img.Layers()
				if size, _ := layers[i].Size(); counter.of(path) != int(size) {
					t.Errorf("layer %d: got %d bytes sent, want each once: %d", i, counter.of(path), size)
				}
			}
			if kept := w.layersKept(); len(kept) != 0 {
				t.Errorf("complete: got layers %v, want none left", kept)
			}
		})
	}
}

// interrupted returns a world in which a pull of an image of two layers failed after the
// first one.
func interrupted(t *testing.T, change ...func(o *Options)) (*world, v1.Image) {
	t.Helper()
	w := newWorld(t, change...)
	img := newImage(t, "amd64", noise(1, 1<<20), noise(2, 1<<20))
	w.reg.push(t, "demo:1", img)
	w.reg.setFault(failPath(blobPaths(t, "demo", img)[1], 500))
	w.wantFailed(w.request("demo:1", "a"), "500")
	if n := len(w.layersKept()); n == 0 {
		t.Fatal("got no layers kept, want the first one")
	}
	w.clock.Step(lastBackoff)
	w.reg.setFault(nil)
	w.reg.resetRequests()
	return w, img
}

// A layer that was damaged on the disk is fetched again.
func TestDamagedLayersAreFetchedAgain(t *testing.T) {
	for name, damage := range map[string]func(data []byte) []byte{
		"changed":           func(data []byte) []byte { data[99] ^= 1; return data },
		"start changed":     func(data []byte) []byte { data[99] ^= 1; return data[:len(data)/2] },
		"too long":          func(data []byte) []byte { return append(data, 1, 2, 3) },
		"longer and faulty": func(data []byte) []byte { data[0] ^= 1; return append(data, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			w, img := interrupted(t)
			for _, path := range w.layersKept() {
				data, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if len(data) == 0 {
					continue
				}
				if err := os.WriteFile(path, damage(data), layerMode); err != nil {
					t.Fatal(err)
				}
			}
			wantImage(t, w.want(w.request("demo:1", "a")).Path, img)
		})
	}
}

// Layers that were fetched for one repository or one secret help nobody whom the
// registry refuses.
func TestKeptLayersGrantNoAccess(t *testing.T) {
	w := newWorld(t)
	img := newImage(t, "amd64", "secret", "other")
	digest := w.reg.push(t, "team/private:1", img)
	w.reg.push(t, "evil/copy:1", img)
	w.reg.setPrivate("team/private", "alice:word")
	first, second := blobPaths(t, "team/private", img)[0], blobPaths(t, "team/private", img)[1]
	private := w.request("team/private:1", "a")
	private.PullSecrets = []host.PullSecret{secretFor(w.reg.host(), "alice:word")}
	w.reg.setFault(failPath(second, 500))
	w.wantFailed(private, "500")

	// The other repository knows the manifest, but does not have the first layer.
	w.reg.setFault(failPath(strings.Replace(first, "team/private", "evil/copy", 1), 404))
	w.wantFailed(w.request("evil/copy:1", "b"), "404")
	w.wantFailed(w.request("evil/copy@"+digest, "c"), "404")

	w.reg.setFault(nil)
	w.reg.resetRequests()
	none := w.request("team/private@"+digest, "d")
	w.wantFailed(none, "401")
	none.PullSecrets = []host.PullSecret{secretFor(w.reg.host(), "alice:other")}
	w.wantFailed(none, "401")
	if n := w.reg.count("/blobs/"); n != 0 {
		t.Errorf("refused: got %d requests for blobs, want none", n)
	}
	w.clock.Step(lastBackoff)
	w.reg.resetRequests()
	w.want(private)
	if n := w.reg.count("GET " + first); n != 0 {
		t.Errorf("the owner: got %d requests for the first layer, want none", n)
	}
}

// Layers of an image that nobody pulls any more go after a while, or when the disk is
// full, before any archive.
func TestKeptLayersAreCollected(t *testing.T) {
	t.Run("after a while", func(t *testing.T) {
		w, _ := interrupted(t)
		if out := w.collect(Used{}); out != (Collected{}) {
			t.Errorf("at first: got %+v, want nothing removed", out)
		}
		w.clock.Step(partialKept)
		if out := w.collect(Used{}); out.Partial != 1 || out.Bytes < 1<<20 || len(w.layersKept()) != 0 {
			t.Errorf("later: got %+v and %v, want the layers removed", out, w.layersKept())
		}
	})
	t.Run("not while they are used", func(t *testing.T) {
		w, img := interrupted(t)
		digest, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		used, err := w.partials.open(t.Context(), w.reg.host()+"/demo", digest.String())
		if err != nil {
			t.Fatal(err)
		}
		w.clock.Step(2 * partialKept)
		if out := w.collect(Used{}); out != (Collected{}) {
			t.Errorf("got %+v, want nothing removed", out)
		}
		used.close()
		if out := w.collect(Used{}); out.Partial != 1 {
			t.Errorf("afterwards: got %+v, want the layers removed", out)
		}
	})
	t.Run("when the disk is full", func(t *testing.T) {
		w, _ := interrupted(t, func(o *Options) { o.Dir, o.GCHigh, o.GCLow = smallDisk(t, "100m"), 50, 50 })
		w.reg.push(t, "old:1", newImage(t, "amd64", "old"))
		w.want(w.request("old:1", "b"))
		w.Forget("b")
		w.clock.Step(DefaultGCMinAge)
		fill(t, w.o.Dir, 49<<20)
		if out := w.collect(Used{}); out.Partial != 1 || out.Archives != 0 || len(w.layersKept()) != 0 {
			t.Errorf("got %+v and %v, want only the layers removed", out, w.layersKept())
		}
	})
}

// At the start, the store keeps only what a pull left behind not long ago.
func TestSweepOfLayers(t *testing.T) {
	w, _ := interrupted(t)
	w.Close()
	dir := filepath.Join(w.o.Dir, partialDir)
	valid := w.layersKept()
	name := strings.Repeat("a", 64)
	for _, path := range []string{"file", "other/" + name, name + "/name", strings.Repeat("b", 64) + "/" + name + "/x"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, path), []byte("x"))
	}
	old := filepath.Join(dir, strings.Repeat("c", 64))
	if err := os.MkdirAll(old, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(old, name), []byte("x"), layerMode); err != nil {
		t.Fatal(err)
	}
	before := w.clock.Now().Add(-partialKept)
	if err := os.Chtimes(old, before, before); err != nil {
		t.Fatal(err)
	}
	w.open()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || !slices.Equal(w.layersKept(), valid) {
		t.Errorf("got %v and %v (%v), want only %v", entries, w.layersKept(), err, valid)
	}
}

// The metric of the store's size counts kept layers.
func TestKeptLayersAreMeasured(t *testing.T) {
	w, _ := interrupted(t)
	if got := w.partials.size(); got < 1<<20 {
		t.Errorf("got %d bytes, want at least those of the first layer", got)
	}
}

// A cancelled pull may still be writing when the next one of the same image starts.
func TestPullsOfOneImageDoNotMix(t *testing.T) {
	w := newWorld(t)
	img := newImage(t, "amd64", noise(1, 2<<20))
	w.reg.push(t, "demo:1", img)
	layer := layerOf(t, img)
	var requests sync.WaitGroup
	w.reg.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
		if !layer(r.URL.Path) {
			return false
		}
		requests.Add(1)
		defer requests.Done()
		w.reg.registry.ServeHTTP(slowWriter{rw}, r)
		return true
	})
	req := w.request("demo:1", "a")
	for range 20 {
		w.pulling(req)
		await.True(t, "something of the layer", func() bool { return len(w.layersKept()) > 0 })
		w.Forget("a")
	}
	wantImage(t, w.want(req).Path, img)
	requests.Wait()
}

// slowWriter sends its data in small pieces.
type slowWriter struct{ http.ResponseWriter }

func (s slowWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		var m int
		m, err = s.ResponseWriter.Write(p[:min(len(p), 64<<10)])
		http.NewResponseController(s.ResponseWriter).Flush()
		time.Sleep(100 * time.Microsecond)
		n, p = n+m, p[m:]
	}
	return n, err
}
