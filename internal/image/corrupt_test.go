// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
)

func TestCorruptedImage(t *testing.T) {
	w := newWorld(t)
	b, img := pushBroken(t, w, "demo:1", true)
	b.after = len(b.data)
	clean := bytes.Clone(b.data)
	for name, spoil := range map[string]func(){
		"in the middle": func() { b.data[len(b.data)/2] ^= 1 },
		"no gzip":       func() { b.data[0] = 0 },
		"in the header": func() { b.data[2] = 77 },
		"at the end":    func() { b.data[len(b.data)-1] ^= 1 },
	} {
		copy(b.data, clean)
		spoil()
		w.wantFailed(w.request("demo:1", name), "layer sha256:", "corrupted")
		if n := w.archives(); n != 0 {
			t.Errorf("%s: got %d archives, want none", name, n)
		}
		w.clock.Step(lastBackoff)
	}
	w.reg.setFault(nil)
	wantImage(t, w.want(w.request("demo:1", "a")).Path, img)

	// Corrupt the manifest in an index, and the config, which have no digest
	// header that could reveal it.
	w.reg.push(t, "other:1", platforms(t, newImage(t, "amd64", "one")))
	for _, part := range []string{"/manifests/sha256:", "/blobs/"} {
		w.reg.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/other"+part) {
				return false
			}
			rec := httptest.NewRecorder()
			w.reg.registry.ServeHTTP(rec, r)
			for k, v := range rec.Header() {
				rw.Header()[k] = v
			}
			rw.Header().Del("Docker-Content-Digest")
			rw.Write(bytes.Replace(rec.Body.Bytes(), []byte(`"`), []byte(` `), 1))
			return true
		})
		w.wantFailed(w.request("other:1", "a"), "corrupted")
		w.clock.Step(lastBackoff)
	}
}

// The manifest of a tag is checked against the digest that the registry
// declares.
func TestCorruptedTagManifest(t *testing.T) {
	w := newWorld(t)
	w.reg.push(t, "demo:1", newImage(t, "amd64", "one"))
	w.reg.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/manifests/1") {
			return false
		}
		rw.Header().Set("Docker-Content-Digest", "sha256:"+strings.Repeat("a", 64))
		w.reg.registry.ServeHTTP(keepHeader{rw, "Docker-Content-Digest"}, r)
		return true
	})
	w.wantFailed(w.request("demo:1", "a"), "manifest sha256:aaaa", "corrupted")
}

// A registry must not answer a request for one digest with another image.
func TestDigestMatchesRequest(t *testing.T) {
	w := newWorld(t)
	old := w.reg.push(t, "demo:old", newImage(t, "amd64", "old"))
	w.want(w.request("demo:old", "a"))
	requested := w.reg.push(t, "demo:new", newImage(t, "amd64", "new"))
	lie := func(method string) {
		w.reg.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.Method != method || !strings.HasSuffix(r.URL.Path, "/manifests/"+requested) {
				return false
			}
			r.URL.Path = "/v2/demo/manifests/" + old
			w.reg.registry.ServeHTTP(rw, r)
			return true
		})
	}
	lie(http.MethodGet)
	w.wantFailed(w.request("demo@"+requested, "a"), old, "for "+requested)
	lie(http.MethodHead)
	w.clock.Step(time.Minute)
	if got := w.want(w.request("demo@"+requested, "a")); got.Digest != requested {
		t.Errorf("got %s, want %s", got.Digest, requested)
	}
}

// rawImage returns an image with one layer of these bytes. Its config claims
// the digest of plain as the diffID.
func rawImage(t *testing.T, layer []byte, plain []byte, media types.MediaType) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer(layer, media))
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", "amd64"
	c.RootFS.DiffIDs = []v1.Hash{{Algorithm: "sha256", Hex: fmt.Sprintf("%x", sha256.Sum256(plain))}}
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

func TestCompressions(t *testing.T) {
	w := newWorld(t)
	plain := newTar(t, map[string]string{"hello": noise(4, 2<<20)})
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, layer := range map[string][]byte{"none": plain, "zstd": z.EncodeAll(plain, nil)} {
		w.reg.push(t, name+":1", rawImage(t, layer, plain, types.OCILayer))
		wantImage(t, w.want(w.request(name+":1", "a")).Path, rawImage(t, plain, plain, types.OCILayer))
	}
	w.reg.push(t, "liar:1", rawImage(t, plain, []byte("something else"), types.OCILayer))
	w.wantFailed(w.request("liar:1", "a"), "does not match the image config")
}
