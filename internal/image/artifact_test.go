// SPDX-License-Identifier: Apache-2.0

package image

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"botbottle.dev/bottle-operator/internal/host"
)

// newArtifact returns an artifact as ORAS pushes it: one layer with a title for
// each file.
func newArtifact(t testing.TB, files ...mutate.Addendum) v1.Image {
	t.Helper()
	img, err := mutate.Append(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), "application/vnd.oci.empty.v1+json"), files...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func packedFile(name string, data []byte) mutate.Addendum {
	return mutate.Addendum{
		Layer: static.NewLayer(data, "application/octet-stream"), Annotations: map[string]string{titleAnnotation: name},
		MediaType: "application/octet-stream",
	}
}

func (s *server) pushArtifact(t *testing.T, ref string, data []byte) (sum string) {
	t.Helper()
	s.push(t, ref, newArtifact(t, packedFile("agent.smolmachine", data)))
	h := sha256.Sum256(data)
	return hex.EncodeToString(h[:])
}

func (w *world) artifact(ref, uid, sum string) host.ImageRequest {
	req := w.request(ref, uid)
	req.Artifact, req.SHA256 = true, sum
	return req
}

func wantFile(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s: got %.40q, %v, want %.40q", path, got, err, want)
	}
}

func TestArtifactOfSeveralFiles(t *testing.T) {
	w := newWorld(t)
	w.reg.push(t, "demo:1", newArtifact(t, packedFile("README.md", []byte("read me")), packedFile("agent.smolmachine", []byte("packed"))))
	wantFile(t, w.want(w.artifact("demo:1", "a", "")).Path, "packed")
	if n := w.reg.count("GET /v2/demo/blobs/"); n != 1 {
		t.Errorf("blobs: got %d requests, want one, for the artifact", n)
	}
	w.reg.push(t, "two:1", newArtifact(t, packedFile("a.smolmachine", []byte("a")), packedFile("b.smolmachine", []byte("b"))))
	w.wantFailed(w.artifact("two:1", "a", ""), "of its 2 layers, 2 are a .smolmachine, want 1")
	w.reg.push(t, "image:1", newImage(t, "amd64", "x"))
	w.wantFailed(w.artifact("image:1", "a", ""), "it is a container image: name it in spec.image")
}

// If the sum is wrong, no byte of the artifact is fetched. If it is right, the
// artifact is fetched only once.
func TestArtifactWithWrongSum(t *testing.T) {
	w := newWorld(t)
	sum := w.reg.pushArtifact(t, "demo:1", []byte("packed"))
	w.wantFailed(w.artifact("demo:1", "a", strings.Repeat("0", 64)), sum, "spec.artifact.sha256")
	if n := w.reg.count("/blobs/"); n != 0 {
		t.Errorf("blobs: got %d requests, want none", n)
	}
	first := w.want(w.artifact("demo:1", "b", sum))
	if again := w.want(w.artifact("demo:1", "c", "")); again != first || w.reg.count("/blobs/") != 1 {
		t.Errorf("again: got %v and %d requests for blobs, want %v and one", again, w.reg.count("/blobs/"), first)
	}
	// The tag has moved to an artifact with the requested sum.
	moved := w.reg.pushArtifact(t, "demo:1", []byte("packed anew"))
	wantFile(t, w.want(w.artifact("demo:1", "d", moved)).Path, "packed anew")
}

func TestCorruptedArtifact(t *testing.T) {
	w := newWorld(t)
	w.reg.pushArtifact(t, "demo:1", []byte("packed"))
	w.reg.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		_, _ = rw.Write([]byte("pocked"))
		return true
	})
	w.wantFailed(w.artifact("demo:1", "a", ""), "does not match its digest")
	if n := w.archives(); n != 0 {
		t.Errorf("store: got %d files, want none", n)
	}
	w.reg.setFault(nil)
	w.clock.Step(time.Minute)
	wantFile(t, w.want(w.artifact("demo:1", "a", "")).Path, "packed")
}

func TestOversizedArtifact(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxBytes = 10 })
	w.reg.pushArtifact(t, "demo:1", []byte("eleven byte"))
	w.wantFailed(w.artifact("demo:1", "a", ""), "--image-max-bytes")
	w.put("a.smolmachine", []byte("eleven byte"))
	req := local("a.smolmachine")
	req.Artifact = true
	w.wantFailed(req, "--image-max-bytes")
	if n := w.reg.count("/blobs/"); n != 0 {
		t.Errorf("blobs: got %d requests, want none", n)
	}
}

// Links and folders are not artifacts, and the source file is not changed.
func TestLocalArtifacts(t *testing.T) {
	w := newWorld(t)
	w.put("a.smolmachine", []byte("packed"))
	path := filepath.Join(w.o.LocalDir, "a.smolmachine")
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	req := local("a.smolmachine")
	req.Artifact = true
	wantFile(t, w.want(req).Path, "packed")
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%s: got %v %v, want it as it was", path, info.Mode(), err)
	}
	w.put("a.smolmachine", []byte("packed anew"))
	wantFile(t, w.want(req).Path, "packed anew")
	w.put("folder.smolmachine/x", nil)
	if err := os.Symlink(path, filepath.Join(w.o.LocalDir, "link.smolmachine")); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]string{"file:link.smolmachine": "symbolic link", "file:folder.smolmachine": "not an OCI layout"} {
		req.Reference = ref
		if img, err := w.settle(req); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v %v, want an error with %q", ref, img, err, want)
		}
	}
}

// An artifact is any file, so it may be a copy of the manifest of a private
// image. Access to such an artifact does not give access to the image.
func TestArtifactGrantsNoAccessToImage(t *testing.T) {
	w := newWorld(t)
	img := newImage(t, "amd64", "secret")
	digest := w.reg.push(t, "victim:1", img)
	w.reg.setPrivate("victim", "v:word")
	private := w.request("victim:1", "v")
	private.PullSecrets = []host.PullSecret{secretFor(w.reg.host(), "v:word")}
	w.want(private)

	raw, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	w.reg.push(t, "evil:packed", newArtifact(t, packedFile("a.smolmachine", raw)))
	w.reg.push(t, "evil:1", img)
	w.reg.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/evil/blobs/") || strings.HasSuffix(r.URL.Path, digest) {
			return false
		}
		rw.WriteHeader(http.StatusNotFound)
		return true
	})
	if got := w.want(w.artifact("evil:packed", "e", "")); got.Digest != digest {
		t.Fatalf("artifact: got %s, want the manifest's own digest %s", got.Digest, digest)
	}
	w.wantFailed(w.request("evil@"+digest, "e"), "404")
}

// A file that is known to have another sum is not copied again.
func TestLocalArtifactWithWrongSumIsCopiedOnce(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxBytes = 100 })
	w.put("a.smolmachine", []byte("packed"))
	req := local("a.smolmachine")
	req.Artifact, req.SHA256 = true, strings.Repeat("0", 64)
	w.wantFailed(req, "is required")
	w.o.MaxBytes = 1 // a copy would fail with another error
	w.Store.o.MaxBytes = 1
	w.clock.Step(time.Minute)
	w.wantFailed(req, "is required")
}
