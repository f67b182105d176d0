// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ocilayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"botbottle.dev/bottle-operator/hack/dev/certificate"
)

// start serves a registry like serve does, on a free port.
func start(t *testing.T) (dir, host string, log *bytes.Buffer) {
	t.Helper()
	dir, log = t.TempDir(), &bytes.Buffer{}
	s, err := newServer(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := certificate.Load(dir, []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewUnstartedServer(s)
	web.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	web.StartTLS()
	t.Cleanup(web.Close)
	return dir, web.Listener.Addr().String(), log
}

func archive(t *testing.T) string {
	t.Helper()
	img, err := random.Image(1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := tarball.WriteToFile(path, name.MustParseReference("a.test/b:1"), img); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPushRequiresThePasswordBelowPrivate(t *testing.T) {
	dir, host, log := start(t)
	ca, tar := filepath.Join(dir, "ca.pem"), archive(t)
	credentials := []string{"-user", user, "-password-file", filepath.Join(dir, "password")}
	push := func(args ...string) (string, error) {
		var out bytes.Buffer
		err := run(append([]string{"push", "-ca", ca}, args...), nil, &out)
		return out.String(), err
	}
	public, err := push(tar, host+"/a:1")
	if err != nil || !strings.HasPrefix(public, "sha256:") {
		t.Errorf("push of a public image: got %q, %v, want its digest", public, err)
	}
	if _, err := push(tar, host+"/private/a:1"); err == nil || !strings.Contains(err.Error(), "401 Unauthorized") {
		t.Errorf("anonymous push below private/: got %v, want 401", err)
	}
	private, err := push(append(credentials, tar, host+"/private/a:1")...)
	if err != nil || private != public {
		t.Errorf("push below private/: got %q, %v, want digest %s", private, err, public)
	}
	for line := range strings.Lines(log.String()) {
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Status == 0 || !strings.HasPrefix(e.Remote, "127.0.0.1:") {
			t.Errorf("got line %q (%v), want a request", line, err)
		}
	}
}

// TestPushLayout checks that a layout is pushed unchanged: the index and
// everything below it, except the layer that the layout lacks.
func TestPushLayout(t *testing.T) {
	dir, host, _ := start(t)
	idx, err := random.Index(1000, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	want, err := idx.Digest()
	if err != nil {
		t.Fatal(err)
	}
	images, err := idx.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	second, err := idx.Image(images.Manifests[1].Digest)
	if err != nil {
		t.Fatal(err)
	}
	m, err := second.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	if _, err := ocilayout.Write(folder, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: idx})); err != nil {
		t.Fatal(err)
	}
	missing := m.Layers[1].Digest
	if err := os.Remove(filepath.Join(folder, "blobs", missing.Algorithm, missing.Hex)); err != nil {
		t.Fatal(err)
	}
	var packed, out bytes.Buffer
	w := tar.NewWriter(&packed)
	if err := errors.Join(w.AddFS(os.DirFS(folder)), w.Close()); err != nil {
		t.Fatal(err)
	}
	if err := run([]string{"push", "-ca", filepath.Join(dir, "ca.pem"), "-", host + "/a:1"}, &packed, &out); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(out.String()); got != want.String() {
		t.Errorf("digest: got %s, want the index's digest %s", got, want)
	}
	client := httpClient(t, dir)
	for path, want := range map[string]int{
		"manifests/1": 200, "manifests/" + images.Manifests[0].Digest.String(): 200, "blobs/" + m.Config.Digest.String(): 200,
		"blobs/" + m.Layers[0].Digest.String(): 200, "blobs/" + missing.String(): 404,
	} {
		resp, err := client.Get("https://" + host + "/v2/a/" + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: got status %d, want %d", path, resp.StatusCode, want)
		}
	}
}

func httpClient(t *testing.T, dir string) *http.Client {
	t.Helper()
	rt, err := pusher{ca: filepath.Join(dir, "ca.pem")}.transport()
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Transport: rt}
}

func TestFaultsCountDown(t *testing.T) {
	s, err := newServer(t.TempDir(), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	set := func(content string) {
		if err := os.WriteFile(s.faults.path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if f := s.faults.next("/v2/a/blobs/x"); f != nil {
		t.Errorf("no file: got %+v, want no fault", f)
	}
	set(`{"path": "/a/", "cut_after_bytes": 10, "times": 1}`)
	if f := s.faults.next("/v2/b/blobs/x"); f != nil {
		t.Errorf("another path: got %+v, want no fault", f)
	}
	if f := s.faults.next("/v2/a/blobs/x"); f == nil || f.CutAfterBytes != 10 {
		t.Errorf("first: got %+v, want a cut", f)
	}
	if f := s.faults.next("/v2/a/blobs/x"); f != nil {
		t.Errorf("second: got %+v, want no fault", f)
	}
	s.faults.returnCut()
	if f := s.faults.next("/v2/a/blobs/x"); f == nil {
		t.Error("after returnCut: got no fault, want a cut")
	}
	set(`{"corrupt": 1}`)
	if f := s.faults.next("/v2/a/blobs/x"); f == nil || f.Corrupt != 1 {
		t.Errorf("new content: got %+v, want a corrupt byte", f)
	}
	set(`{"redirect": "https://203.0.113.7/"}`)
	for range 2 {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v2/a/blobs/x", nil))
		if got := w.Header().Get("Location"); w.Code != http.StatusTemporaryRedirect || got != "https://203.0.113.7/" {
			t.Errorf("redirect: got status %d to %q, want 307 to the URL", w.Code, got)
		}
	}
}
