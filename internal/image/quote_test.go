// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"unicode"

	"github.com/go-logr/logr/funcr"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"botbottle.dev/bottle-operator/internal/host"
)

// strange is a word that only a registry uses.
const strange = "StrangeWord"

// hijacked answers with raw bytes and closes the connection.
func hijacked(raw string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_, _ = conn.Write([]byte(raw))
		conn.Close()
	}
}

// withStatus answers with a status, a header and a body.
func withStatus(status int, header, value, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if header != "" {
			w.Header().Set(header, value)
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// answers are what a registry can send in place of what it was asked for.
func answers() map[string]http.HandlerFunc {
	out := map[string]http.HandlerFunc{
		"a body":              withStatus(500, "", "", strange),
		"HTML":                withStatus(404, "Content-Type", "text/html", "<h1>"+strange+"</h1>"),
		"an error's message":  withStatus(403, "", "", `{"errors":[{"code":"DENIED","message":"`+strange+`","detail":"`+strange+`"}]}`),
		"an unknown code":     withStatus(400, "", "", `{"errors":[{"code":"`+strange+`","message":"x"},{"code":"`+strange+`2"}]}`),
		"many errors":         withStatus(429, "", "", `{"errors":[`+strings.Repeat(`{"code":"TOOMANYREQUESTS","message":"`+strange+`"},`, 500)+`{}]}`),
		"a digest header":     withStatus(200, "Docker-Content-Digest", strange, `{`),
		"a media type":        withStatus(200, "Content-Type", "application/"+strange, `"`+strange+`"`),
		"invalid JSON":        withStatus(200, "", "", strange),
		"an odd status":       withStatus(799, "", "", strange),
		"a challenge":         withStatus(401, "WWW-Authenticate", strange+" realm="+strange, strange),
		"a realm":             withStatus(401, "WWW-Authenticate", `Bearer realm="`+strange+`",service="`+strange+`"`, strange),
		"a realm's scheme":    withStatus(401, "WWW-Authenticate", `Bearer realm="ftp://`+strange+`/",service="`+strange+`"`, strange),
		"a realm's name":      withStatus(401, "WWW-Authenticate", `Bearer realm="https://`+strange+`+x.invalid/",service="`+strange+`"`, strange),
		"a realm inside":      withStatus(401, "WWW-Authenticate", `Bearer realm="https://10.11.12.13/`+strange+`"`, strange),
		"a realm that is bad": withStatus(401, "WWW-Authenticate", `Bearer realm="https://[`+strange+`:x/%zz"`, strange),
		"no realm":            withStatus(401, "WWW-Authenticate", `Bearer service="`+strange+`"`, strange),
		"a status text":       hijacked("HTTP/1.1 500 " + strange + "\r\nConnection: close\r\n\r\n" + strange),
		"no HTTP":             hijacked(strange + "\r\n\r\n"),
		"a broken status":     hijacked("HTTP/1.1 " + strange + "\r\n\r\n"),
		"a broken header":     hijacked("HTTP/1.1 200 OK\r\n" + strange + "\r\n\r\n"),
		"a bad length":        hijacked("HTTP/1.1 200 OK\r\nContent-Length: " + strange + "\r\n\r\n"),
		"bad chunks":          hijacked("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + strange + "\r\n"),
		"a bad encoding":      hijacked("HTTP/1.1 200 OK\r\nTransfer-Encoding: " + strange + "\r\n\r\n"),
		"a loop of redirects": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path+"?"+strange, http.StatusTemporaryRedirect)
		},
	}
	for name, to := range map[string]string{
		"another scheme": "ftp://" + strange + "/", "a name": "https://" + strange + "+x.invalid/" + strange, "a user": "https://" + strange + ":" + strange + "@127.0.0.1:9/" + strange,
		"inside": "https://169.254.169.254/" + strange, "a zone": "https://[fe80::1%25" + strange + "]/", "not a URL": "https://[" + strange + ":%zz", "control": "https://127.0.0.1:9/\x7f" + strange, "nothing": "",
	} {
		out["a redirect to "+name] = withStatus(302, "Location", to, strange)
	}
	return out
}

// Whatever a registry sends, nothing of it is in an error, an Event or the log.
func TestRegistriesAreNotQuoted(t *testing.T) {
	var mu sync.Mutex
	var logged []string
	w := newWorld(t, func(o *Options) {
		o.Log = funcr.New(func(prefix, args string) {
			mu.Lock()
			defer mu.Unlock()
			logged = append(logged, prefix+" "+args)
		}, funcr.Options{Verbosity: 9})
	})
	log.SetOutput(io.Discard) // as the agent does: net/http logs answers that nobody asked for
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	n := 0
	for answer, send := range answers() {
		for hop, at := range hops {
			n++
			repo := fmt.Sprint("demo-", n)
			w.reg.push(t, repo+":1", indexOf(newImage(t, "amd64", repo)))
			w.reg.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
				if at(r) {
					send(rw, r)
					return true
				}
				return token(w.reg, rw, r)
			})
			req := w.request(repo+":1", repo)
			if _, err := w.settle(req); err != nil {
				wantOwnWords(t, answer+" at "+hop, err)
			} else {
				t.Errorf("%s at %s: got the image, want a failure", answer, hop)
			}
			w.Forget(req.For)
		}
	}
	w.Close()
	for _, text := range append(w.events, logged...) {
		if strings.Contains(strings.ToLower(text), strings.ToLower(strange)) {
			t.Errorf("Event or log: got %q, want nothing of what the registry sent", text)
		}
	}
	if len(w.events) < n {
		t.Errorf("got %d Events, want at least %d", len(w.events), n)
	}
}

func wantOwnWords(t *testing.T, what string, err error) {
	t.Helper()
	text := err.Error()
	if strings.Contains(strings.ToLower(text), strings.ToLower(strange)) || strings.Contains(text, "://") {
		t.Errorf("%s: got %q, want nothing of what the registry sent", what, text)
	}
	if len(text) > 1024 || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("%s: got %q, want a short printable line", what, text)
	}
}

// The manifests and layers are the registry's words, too.
func TestImagesAreNotQuoted(t *testing.T) {
	w := newWorld(t)
	image := newImage(t, "amd64", "one")
	add := func(os, arch, variant string) mutate.IndexAddendum {
		return mutate.IndexAddendum{Add: newImage(t, "arm64", variant), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: os, Architecture: arch, Variant: variant}}}
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.Architecture, config.OS, config.Variant = strange, "linux", strange
	foreign, err := mutate.ConfigFile(image, config)
	if err != nil {
		t.Fatal(err)
	}
	zipped := []byte("\x1f\x8b" + strange)
	frames := []byte("\x28\xb5\x2f\xfd" + strange)
	for ref, img := range map[string]interface {
		MediaType() (types.MediaType, error)
	}{
		"platforms": mutate.AppendManifests(empty.Index, add("linux", strange, ""), add(strange, "amd64", "v8"), add("linux", "arm64", strange)),
		"config":    foreign,
		"kind":      mutate.ConfigMediaType(image, "application/"+strange),
		"gzip":      rawImage(t, zipped, zipped, types.OCILayer),
		"zstd":      rawImage(t, frames, frames, types.OCILayer),
		"layer":     rawImage(t, []byte(strange), []byte("x"), types.OCILayer),
	} {
		switch img := img.(type) {
		case v1.ImageIndex:
			w.reg.push(t, ref+":1", img)
		case v1.Image:
			w.reg.push(t, ref+":1", img)
		}
		wantOwnWords(t, ref, w.wantFailed(w.request(ref+":1", "a")))
		artifact := w.request(ref+":1", "b")
		artifact.Artifact = true
		if _, err := w.settle(artifact); err != nil {
			wantOwnWords(t, ref+" as an artifact", err)
		}
	}
	w.wantFailed(w.request("platforms:1", "c"), "only for another platform, linux/arm64:")
}

// An error that nobody foresaw has no words of its own, and is not shown.
func TestUnforeseenErrorsAreNotQuoted(t *testing.T) {
	for _, dials := range []*dialer{allDetail(), publicOnly(), privateToo()} {
		for _, err := range []error{errors.New(strange), fmt.Errorf("%w", errors.Join(errors.New(strange), errors.New("x")))} {
			got := attempt{registry: "registry.test", dials: dials}.explain(err)
			wantOwnWords(t, "unforeseen", got)
			if !strings.HasPrefix(got.Error(), "registry registry.test: ") {
				t.Errorf("got %q, want it to name the registry", got)
			}
		}
	}
}

func allDetail() *dialer { return newDialer(addresses{}) }

func publicOnly() *dialer {
	d := newDialer(addresses{})
	d.public.Store(true)
	return d
}

func privateToo() *dialer {
	d := publicOnly()
	d.private.Store(true)
	return d
}

// A registry's certificate names hosts, too.
func TestCertificatesAreNotQuoted(t *testing.T) {
	w := newWorld(t)
	// The server of all tests listens only at 127.0.0.1, for which its certificate is
	// valid.
	s := listeningAt(t, "127.0.0.9")
	failed := w.wantFailed(host.ImageRequest{Reference: s.host() + "/demo:1", For: "a"}, "registry "+s.host()+": its certificate is for another name: repair")
	for _, name := range []string{"example.com", "Acme", "127.0.0.1"} {
		if strings.Contains(failed.Error(), name) {
			t.Errorf("got %q, want no name of the certificate", failed)
		}
	}
}

// listeningAt returns a server with the certificate of httptest.
func listeningAt(t *testing.T, at string) *server {
	t.Helper()
	return startServer(t, func(s *httptest.Server) {
		s.Listener.Close()
		s.Listener = listenAt(t, at)
		s.StartTLS()
	})
}
