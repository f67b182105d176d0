// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"botbottle.dev/bottle-operator/internal/host"
)

// breakingBlob serves a blob, counts its bytes, and breaks the connection each
// time after so many of them.
type breakingBlob struct {
	path     string
	data     []byte
	after    int
	ranges   bool
	sent     atomic.Int64
	requests atomic.Int64
}

func (b *breakingBlob) serve(w http.ResponseWriter, r *http.Request) bool {
	if r.URL.Path != b.path {
		return false
	}
	b.requests.Add(1)
	from := 0
	if v := r.Header.Get("Range"); v != "" && b.ranges {
		fmt.Sscanf(v, "bytes=%d-", &from)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(b.data)-1, len(b.data)))
		w.Header().Set("Content-Length", fmt.Sprint(len(b.data)-from))
		w.WriteHeader(http.StatusPartialContent)
	} else {
		w.Header().Set("Content-Length", fmt.Sprint(len(b.data)))
	}
	end := min(len(b.data), from+b.after)
	n, _ := w.Write(b.data[from:end])
	b.sent.Add(int64(n))
	if end < len(b.data) {
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	return true
}

// pushBroken pushes an image of one layer, and makes the server break off that
// layer.
func pushBroken(t *testing.T, w *world, ref string, ranges bool) (*breakingBlob, v1.Image) {
	t.Helper()
	img := newImage(t, "amd64", noise(3, 4<<20))
	w.reg.push(t, ref, img)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	h, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	r, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	repo, _, _ := strings.Cut(ref, ":")
	b := &breakingBlob{path: "/v2/" + repo + "/blobs/" + h.String(), data: data, after: 1 << 20, ranges: ranges}
	w.reg.setFault(b.serve)
	return b, img
}

func TestPullResumes(t *testing.T) {
	w := newWorld(t)
	b, img := pushBroken(t, w, "demo:1", true)
	wantImage(t, w.want(w.request("demo:1", "a")).Path, img)
	if got, want := b.sent.Load(), int64(len(b.data)); got != want {
		t.Errorf("got %d bytes sent, want each once: %d", got, want)
	}
	if n := b.requests.Load(); n != 5 {
		t.Errorf("got %d requests, want 5", n)
	}
}

// A registry without ranges starts again, and gets further each time.
func TestPullRestartsWithoutRanges(t *testing.T) {
	w := newWorld(t)
	b, img := pushBroken(t, w, "demo:1", false)
	further := func(rw http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == b.path {
			b.after += 1 << 20
		}
		return b.serve(rw, r)
	}
	w.reg.setFault(further)
	wantImage(t, w.want(w.request("demo:1", "a")).Path, img)
	if b.sent.Load() <= int64(len(b.data)) {
		t.Errorf("got %d bytes sent, want some twice", b.sent.Load())
	}
}

// If the connection always breaks at the same byte, the pull fails after a
// bounded number of attempts.
func TestConnectionBreaksAtSameByte(t *testing.T) {
	w := newWorld(t)
	b, _ := pushBroken(t, w, "demo:1", false)
	w.wantFailed(w.request("demo:1", "a"), "broke", "byte 1048576 of")
	if n := b.requests.Load(); n != maxStuck+1 {
		t.Errorf("got %d requests, want one and %d without progress", n, maxStuck)
	}
	if n := w.archives(); n != 0 {
		t.Errorf("got %d archives, want none", n)
	}
}

// If each connection brings only a little, the pull fails too.
func TestConnectionBreaksTooOften(t *testing.T) {
	w := newWorld(t)
	b, _ := pushBroken(t, w, "demo:1", true)
	b.after = 64 << 10
	w.wantFailed(w.request("demo:1", "a"), "broke 25 times")
	if n := b.requests.Load(); n != maxTries {
		t.Errorf("got %d requests, want %d", n, maxTries)
	}
}

// A manifest that claims 4 GiB, with a limit of 1 GiB. Nothing is read.
func TestManifestClaimsTooMuch(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxBytes = 1 << 30 })
	img := newImage(t, "amd64", "one")
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	half := int64(1 << 29)
	for name, c := range map[string]struct {
		sizes []int64
		text  string
	}{
		"one":      {[]int64{4 << 30}, "has 4 GiB"},
		"many":     {[]int64{half, half, half, half, half, half, half, half}, "has 4 GiB"},
		"negative": {[]int64{-1}, "has 8388608 TiB"},
		"overflow": {[]int64{1 << 62, 1 << 62, 1 << 62}, "has 8388608 TiB"},
	} {
		claim := m.DeepCopy()
		claim.Layers = nil
		for _, size := range c.sizes {
			l := m.Layers[0]
			l.Size = size
			claim.Layers = append(claim.Layers, l)
		}
		w.reg.push(t, name+":1", rawManifest{t, claim})
		w.reg.resetRequests()
		w.wantFailed(w.request(name+":1", "a"), c.text, "--image-max-bytes", "the 1 GiB")
		if n := w.reg.count("/blobs/"); n != 0 {
			t.Errorf("%s: got %d requests for blobs, want none", name, n)
		}
	}
}

// A small layer that unpacks to far too much is stopped on the way.
func TestLayerUnpacksTooLarge(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxBytes = 8 << 20 })
	plain := make([]byte, 64<<20)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(plain)
	z.Close()
	w.reg.push(t, "bomb:1", rawImage(t, packed.Bytes(), plain, types.OCILayer))
	w.wantFailed(w.request("bomb:1", "a"), "unpacks to more than the 8 MiB")
}

func TestUnreachableRegistry(t *testing.T) {
	w := newWorld(t)
	at := closedPort(t)
	w.wantFailed(host.ImageRequest{Reference: at + "/demo:1", For: "a"}, "registry "+at, "connection refused", "--image-mirror")

	other := newServer(t) // with the same certificate: httptest has only one
	o := w.o
	o.CAFile, o.Dir = "", t.TempDir()
	w.Close()
	w.o = o
	w.open()
	w.wantFailed(host.ImageRequest{Reference: other.host() + "/demo:1", For: "a"}, "certificate", "--image-ca")
}

// The agent ends in the middle of a pull. The next agent finds nothing left of
// it.
func TestClosedWhilePulling(t *testing.T) {
	w := newWorld(t)
	b, img := pushBroken(t, w, "demo:1", true)
	reached := make(chan struct{}, 10)
	w.reg.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != b.path {
			return false
		}
		rw.Header().Set("Content-Length", fmt.Sprint(len(b.data)))
		rw.Write(b.data[:2<<20])
		http.NewResponseController(rw).Flush()
		reached <- struct{}{}
		<-r.Context().Done()
		return true
	})
	req := w.request("demo:1", "a")
	_, err := w.Get(t.Context(), req)
	var pulling *host.Pulling
	if !errors.As(err, &pulling) {
		t.Fatalf("got %v, want a pull under way", err)
	}
	<-reached
	w.Close()
	w.wantClean()
	if _, err := w.Get(t.Context(), req); err == nil {
		t.Error("closed: got an image, want an error")
	}
	// A temporary file of an agent that was killed.
	writeFile(t, filepath.Join(w.o.Dir, tempPrefix+"123"), []byte("half"))
	w.open()
	w.wantClean()
	w.reg.setFault(nil)
	wantImage(t, w.want(req).Path, img)
}

// rawManifest is pushed unchanged.
type rawManifest struct {
	t *testing.T
	m *v1.Manifest
}

func (r rawManifest) RawManifest() ([]byte, error) { return jsonOf(r.t, r.m), nil }

// keepHeader is a ResponseWriter that does not let one header be changed.
type keepHeader struct {
	http.ResponseWriter
	name string
}

func (k keepHeader) Header() http.Header {
	h := k.ResponseWriter.Header().Clone()
	h.Del(k.name)
	return h
}
