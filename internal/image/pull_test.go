// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"botbottle.dev/bottle-operator/internal/host"
)

func TestPullPublicImage(t *testing.T) {
	w := newWorld(t)
	// The third layer is the same as the first.
	want := newImage(t, "amd64", "one", noise(1, 3<<20), "one")
	digest := w.reg.push(t, "demo:1", want)
	req := w.request("demo:1", "a")
	got := w.want(req)
	if got.Digest != digest || got.Reference != req.Reference || got.Path != filepath.Join(w.o.Dir, digest[7:]+".flat.tar") {
		t.Errorf("got %+v, want digest %s", got, digest)
	}
	wantImage(t, got.Path, want)
	if n := w.reg.count("/blobs/"); n != 4 { // config and three different layers
		t.Errorf("got %d requests for blobs, want 4", n)
	}
	w.reg.resetRequests()
	w.want(w.request("demo:1", "b"))
	w.want(w.request("demo@"+digest, "b"))
	if n := w.reg.count("/demo/blobs/"); n != 0 {
		t.Errorf("again, and by digest: got %d requests for blobs, want none", n)
	}
	w.wantClean()
}

func TestArchiveIsReproducible(t *testing.T) {
	img := newImage(t, "amd64", "one", "two")
	var sums []string
	for range 2 {
		w := newWorld(t)
		w.reg.push(t, "demo:1", img)
		sums = append(sums, sumOf(t, w.want(w.request("demo:1", "a")).Path))
	}
	if sums[0] != sums[1] {
		t.Errorf("got archives %v, want equal ones", sums)
	}
}

func TestEvents(t *testing.T) {
	w := newWorld(t)
	w.reg.push(t, "demo:1", newImage(t, "amd64", "one"))
	w.want(w.request("demo:1", "a"))
	always := w.request("demo:1", "b")
	always.Policy = host.PullAlways
	w.want(always)
	absent := w.request("absent:1", "c")
	w.wantFailed(absent)
	w.wantFailed(absent)
	w.wantFailed(absent)
	w.Close() // after this, no more Events are sent
	var got []string
	for _, e := range w.events {
		got = append(got, strings.Join(strings.Fields(e)[:2], " "))
	}
	want := []string{"a Pulling", "a Pulled", "b Pulling", "b Pulled", "c Pulling", "c Failed", "c BackOff"}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", w.events, want)
	}
}

func TestTagMoves(t *testing.T) {
	w := newWorld(t)
	first := w.reg.push(t, "demo:latest", newImage(t, "amd64", "one"))
	if got := w.want(w.request("demo", "a")); got.Digest != first {
		t.Fatalf("got %s, want %s", got.Digest, first)
	}
	second := w.reg.push(t, "demo:latest", newImage(t, "amd64", "two"))
	ifNotPresent := w.request("demo", "b")
	ifNotPresent.Policy = host.PullIfNotPresent
	if got := w.want(ifNotPresent); got.Digest != first {
		t.Errorf("IfNotPresent: got %s, want the image on the node, %s", got.Digest, first)
	}
	if got := w.want(w.request("demo", "b")); got.Digest != second {
		t.Errorf("another Bottle, Always by default: got %s, want the new image %s", got.Digest, second)
	}
	if got := w.want(w.request("demo", "a")); got.Digest != first {
		t.Errorf("the same Bottle again: got %s, want the same answer, %s", got.Digest, first)
	}
	w.clock.Step(answerReusable)
	if got := w.want(w.request("demo", "a")); got.Digest != second {
		t.Errorf("later: got %s, want the new image %s", got.Digest, second)
	}
	if n := w.archives(); n != 2 {
		t.Errorf("got %d archives, want 2", n)
	}
}

func TestIndexOfPlatforms(t *testing.T) {
	w := newWorld(t)
	want := newImage(t, "amd64", "ours")
	add := func(img v1.Image, os, arch, variant string) mutate.IndexAddendum {
		return mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: os, Architecture: arch, Variant: variant}}}
	}
	idx := mutate.AppendManifests(empty.Index,
		add(newImage(t, "arm64", "other"), "linux", "arm64", "v8"),
		add(newImage(t, "amd64", "for new CPUs"), "linux", "amd64", "v3"),
		add(newImage(t, "amd64", "attestation"), "unknown", "unknown", ""),
		add(newImage(t, "amd64", "windows"), "windows", "amd64", ""),
		add(want, "linux", "amd64", ""))
	// An index in an index, as some tools push.
	top := w.reg.push(t, "demo:1", mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: idx}))
	got := w.want(w.request("demo:1", "a"))
	if h, _ := want.Digest(); got.Digest != h.String() {
		t.Errorf("got %s, want the image of the platform, %s", got.Digest, h)
	}
	wantImage(t, got.Path, want)
	w.reg.resetRequests()
	if again := w.want(w.request("demo@"+top, "a")); again.Digest != got.Digest || w.reg.count("GET /v2/demo/") > 0 {
		t.Errorf("by the index's digest: got %s and %v, want %s from a HEAD", again.Digest, w.reg.requests, got.Digest)
	}

	foreign := mutate.AppendManifests(empty.Index, add(newImage(t, "arm64", "other"), "linux", "arm64", "v8"), add(newImage(t, "s390x", "other"), "linux", "s390x", ""),
		add(newImage(t, "amd64", "attestation"), "unknown", "unknown", ""))
	w.reg.push(t, "foreign:1", foreign)
	w.wantFailed(w.request("foreign:1", "a"), "linux/amd64", "only for linux/arm64/v8, linux/s390x:")
	w.reg.push(t, "single:1", newImage(t, "arm64", "other"))
	w.wantFailed(w.request("single:1", "a"), "linux/arm64", "linux/amd64")
}

func TestPullPrivateImage(t *testing.T) {
	w := newWorld(t)
	digest := w.reg.push(t, "team/demo:1", newImage(t, "amd64", "one"))
	w.reg.setPrivate("team/demo", "alice:right-word", "bob:other-word")
	reg := w.reg.host()
	none := w.request("team/demo:1", "a")
	w.wantFailed(none, "401", "no credentials", "spec.imagePullSecrets", reg)
	wrong := none
	wrong.PullSecrets = []host.PullSecret{secretFor(reg, "alice:wrong-word")}
	w.wantFailed(wrong, "401", "refused", "spec.imagePullSecrets")

	right := none
	right.PullSecrets = []host.PullSecret{{Name: "broken", Content: []byte("not JSON")}, secretFor(reg, "alice:wrong-word"), secretFor("https://"+reg+"/v2/", "alice:right-word")}
	if got := w.want(right); got.Digest != digest {
		t.Fatalf("right: got %s, want %s", got.Digest, digest)
	}
	// The image is on the node now, but only for those who have access at the
	// registry.
	w.clock.Step(time.Hour)
	w.reg.resetRequests()
	w.wantFailed(none)
	w.wantFailed(wrong)
	if n := w.reg.count("/blobs/"); n != 0 {
		t.Errorf("refused: got %d requests for blobs, want none", n)
	}
	bob := none
	bob.PullSecrets = []host.PullSecret{secretFor(reg+"/team", "bob:other-word")}
	w.reg.resetRequests()
	if got := w.want(bob); got.Digest != digest || w.reg.count("/blobs/") != 0 || w.reg.count("HEAD") != 1 {
		t.Errorf("another valid secret: got %s and %v, want the image after one HEAD", got.Digest, w.reg.requests)
	}
	// Those who have access get it without asking the registry.
	w.reg.Close()
	w.want(right)
	w.want(bob)
}

// The token server checks the credentials, and the registry only the tokens.
func TestBearerTokens(t *testing.T) {
	w := newWorld(t)
	digest := w.reg.push(t, "team/demo:1", newImage(t, "amd64", "one"))
	issued := 0
	w.reg.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
		user, password, _ := r.BasicAuth()
		switch {
		case r.URL.Path == "/token" && user+":"+password == "alice:right-word":
			issued++
			fmt.Fprintf(rw, `{"token":"secret-token-%d"}`, issued)
		case r.URL.Path == "/token":
			rw.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(rw, `{"errors":[{"code":"UNAUTHORIZED","message":"incorrect username or password"}]}`)
		// The first token has expired by the time of the first blob.
		case r.Header.Get("Authorization") == fmt.Sprintf("Bearer secret-token-%d", issued) && (issued > 1 || !strings.Contains(r.URL.Path, "/blobs/")):
			return false
		default:
			rw.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test",scope="repository:team/demo:pull"`, w.reg.URL))
			rw.WriteHeader(http.StatusUnauthorized)
		}
		return true
	})
	req := w.request("team/demo:1", "a")
	wrong := req
	wrong.PullSecrets = []host.PullSecret{secretFor(w.reg.host(), "alice:wrong-word")}
	w.wantFailed(wrong, "401 Unauthorized, UNAUTHORIZED: authentication required", "spec.imagePullSecrets")
	w.wantFailed(req, "401", "no credentials")
	req.PullSecrets = []host.PullSecret{secretFor(w.reg.host(), "alice:right-word")}
	if got := w.want(req); got.Digest != digest || issued != 2 {
		t.Errorf("got %v with %d tokens, want %s with two", got, issued, digest)
	}
}

// Another repository must not get access to an image by knowing its digest.
func TestDigestGrantsNoAccess(t *testing.T) {
	w := newWorld(t)
	img := newImage(t, "amd64", "secret")
	digest := w.reg.push(t, "team/private:1", img)
	w.reg.setPrivate("team/private", "alice:word")
	w.want(host.ImageRequest{Reference: w.reg.host() + "/team/private:1", PullSecrets: []host.PullSecret{secretFor(w.reg.host(), "alice:word")}, For: "a"})

	// The other repository has the manifest and the config, but not the layer.
	w.reg.push(t, "evil/copy:1", img)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	w.reg.setFault(failPath("/v2/evil/copy/blobs/"+layer.String(), 404))
	w.wantFailed(w.request("evil/copy:1", "a"), "404")
	w.wantFailed(w.request("evil/copy@"+digest, "a"), "404")
	w.reg.setFault(nil)
	w.clock.Step(time.Minute)
	w.want(w.request("evil/copy:1", "a")) // it now has all of the image
}

func TestConcurrentRequestsSharePull(t *testing.T) {
	w := newWorld(t)
	digest := w.reg.push(t, "demo:1", newImage(t, "amd64", noise(1, 1<<20), noise(2, 1<<20)))
	w.reg.setPrivate("demo", "alice:a-word", "bob:b-word")
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			req := w.request("demo:1", fmt.Sprint(i))
			// Half of them have other credentials, which are checked at the
			// registry separately.
			req.PullSecrets = []host.PullSecret{secretFor(w.reg.host(), []string{"alice:a-word", "bob:b-word"}[i%2])}
			img, err := w.settle(req)
			if err != nil || img.Digest != digest {
				t.Errorf("%d: got %v %v, want %s", i, img, err, digest)
			}
		})
	}
	all.Wait()
	if n := w.reg.count("GET /v2/demo/blobs/"); n != 3 {
		t.Errorf("got %d requests for blobs, want 3: one config, two layers", n)
	}
	if n := w.reg.count("HEAD /v2/demo/manifests/"); n != 2 {
		t.Errorf("got %d requests to resolve the tag, want 2: one for each credential", n)
	}
}

func TestNotAnImage(t *testing.T) {
	w := newWorld(t)
	chart := mutate.ConfigMediaType(newImage(t, "amd64", "one"), "application/vnd.cncf.helm.config.v1+json")
	w.reg.push(t, "chart:1", chart)
	w.wantFailed(w.request("chart:1", "a"), "not a container image", "a Helm chart")
	old := mutate.MediaType(newImage(t, "amd64", "one"), types.OCIManifestSchema1)
	w.reg.push(t, "demo:1", old)
	w.want(w.request("demo:1", "a"))
}
