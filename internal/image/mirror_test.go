// SPDX-License-Identifier: Apache-2.0

package image

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

func TestMirrors(t *testing.T) {
	mirror := newServer(t)
	down := closedPort(t)
	w := newWorld(t, func(o *Options) {
		o.Mirrors = []string{"registry.test=" + down + "," + mirror.host() + "/cache"}
	})
	img := newImage(t, "amd64", "one")
	mirror.push(t, "cache/team/demo:1", img)
	mirror.setPrivate("cache/team", "mirror:its-word")
	req := host.ImageRequest{Reference: "registry.test/team/demo:1", For: "a", PullSecrets: []host.PullSecret{
		secretFor("registry.test", "alice:word"), secretFor(mirror.host(), "mirror:its-word"),
	}}
	wantImage(t, w.want(req).Path, img)
	for _, h := range mirror.headers {
		r := http.Request{Header: h}
		if user, _, ok := r.BasicAuth(); ok && user != "mirror" {
			t.Errorf("the mirror was sent the credentials of %s, want only its own", user)
		}
	}
}

// The last mirror fails in the middle of a blob.
func TestFailoverFromMirror(t *testing.T) {
	mirror := newServer(t)
	w := newWorld(t)
	w.Close()
	w.o.Mirrors = []string{w.reg.host() + "=" + mirror.host()}
	w.open()
	b, img := pushBroken(t, w, "demo:1", false)
	w.reg.setFault(nil)
	mirror.push(t, "demo:1", img)
	mirror.setFault(b.serve)
	wantImage(t, w.want(w.request("demo:1", "a")).Path, img)
	if mirror.count("GET /v2/demo/blobs/") == 0 || w.reg.count("GET /v2/demo/blobs/") != 2 {
		t.Errorf("got %v at the mirror and %v at the registry, want the blobs from the registry after the mirror failed", mirror.requests, w.reg.requests)
	}
	w.wantFailed(w.request("absent:1", "a"), "404", "before that, its mirror", mirror.host())
}

func TestMirrorFlags(t *testing.T) {
	got, err := mirrorsOf([]string{"docker.io=m1:5000/hub/,m2.test", "ghcr.io=m1:5000"})
	if err != nil || len(got) != 2 || strings.Join(got["index.docker.io"], " ") != "m1:5000/hub m2.test" {
		t.Errorf("got %v %v, want m1:5000/hub and m2.test for docker.io", got, err)
	}
	for _, flag := range []string{"", "docker.io", "docker.io=", "=m", "docker.io=http://m", "docker.io=UP/CASE", "a b=m"} {
		if got, err := mirrorsOf([]string{flag}); err == nil {
			t.Errorf("%q: got %v, want an error", flag, got)
		}
	}
}

func TestPlainHTTP(t *testing.T) {
	plain := newPlainServer(t)
	plain.push(t, "demo:1", newImage(t, "amd64", "one"))
	plain.setPrivate("demo", "alice:word")
	req := host.ImageRequest{Reference: plain.host() + "/demo:1", For: "a", PullSecrets: []host.PullSecret{secretFor(plain.host(), "alice:word")}}
	w := newWorld(t)
	// It is on the loopback, which other clients access without TLS.
	w.wantFailed(req, "--image-plain-http")
	if len(plain.requests) > 0 {
		t.Errorf("got %v, want nothing sent without TLS", plain.requests)
	}
	w.Close()
	w.o.PlainHTTP = []string{plain.host()}
	w.open()
	w.want(req)
}

// A registry redirects to another host for blobs. The credentials are not sent
// there, and the connection always uses TLS.
func TestRedirects(t *testing.T) {
	cdn, clear := newServer(t), newPlainServer(t)
	w := newWorld(t)
	img := newImage(t, "amd64", "one")
	for _, s := range []*server{w.reg, cdn, clear} {
		s.push(t, "demo:1", img)
	}
	w.reg.setPrivate("demo", "alice:word")
	to := cdn.URL
	w.reg.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		http.Redirect(rw, r, to+r.URL.Path+"?X-Signature=topsecret", http.StatusTemporaryRedirect)
		return true
	})
	req := w.request("demo:1", "a")
	req.PullSecrets = []host.PullSecret{secretFor(w.reg.host(), "alice:word")}
	w.want(req)
	if cdn.count("/blobs/") != 2 {
		t.Errorf("got %v, want the blobs from the other host", cdn.requests)
	}
	for _, h := range cdn.headers {
		if h.Get("Authorization") != "" {
			t.Error("got credentials sent to the other host, want none")
		}
	}

	to = clear.URL
	w.reg.push(t, "demo:2", newImage(t, "amd64", "two"))
	w.clock.Step(time.Minute)
	two := w.request("demo:2", "a")
	two.PullSecrets = req.PullSecrets
	failed := w.wantFailed(two)
	if strings.Contains(failed.Error(), "topsecret") || len(clear.requests) > 0 {
		t.Errorf("got %q and %v, want neither the query nor a request without TLS", failed, clear.requests)
	}
}
