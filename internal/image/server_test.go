// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"botbottle.dev/bottle-operator/internal/host"
)

// server is a registry that records requests and can inject faults.
type server struct {
	*httptest.Server
	registry http.Handler

	mu       sync.Mutex
	requests []string
	headers  []http.Header
	private  map[string][]string // user:password, by repository
	// fault returns true if it has answered the request itself.
	fault func(w http.ResponseWriter, r *http.Request) bool
}

func newServer(t *testing.T) *server { return startServer(t, (*httptest.Server).StartTLS) }

func newPlainServer(t testing.TB) *server { return startServer(t, (*httptest.Server).Start) }

func startServer(t testing.TB, start func(*httptest.Server)) *server {
	t.Helper()
	s := &server{private: map[string][]string{}, registry: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	s.Server = httptest.NewUnstartedServer(s)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	start(s.Server)
	t.Cleanup(s.Close)
	return s
}

func (s *server) host() string { return s.Listener.Addr().String() }

func (s *server) caFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	data := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r.Method+" "+r.URL.Path)
	s.headers = append(s.headers, r.Header.Clone())
	fault, allowed := s.fault, s.allowed(r)
	s.mu.Unlock()
	if !allowed {
		w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprintf(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required, not %s"}]}`, r.Header.Get("Authorization"))
		return
	}
	if fault == nil || !fault(w, r) {
		s.registry.ServeHTTP(w, r)
	}
}

func (s *server) allowed(r *http.Request) bool {
	user, password, _ := r.BasicAuth()
	for repo, accepted := range s.private {
		if !strings.HasPrefix(r.URL.Path, "/v2/"+repo+"/") {
			continue
		}
		for _, a := range accepted {
			if a == user+":"+password {
				return true
			}
		}
		return false
	}
	return true
}

func (s *server) setFault(fault func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}

// setPrivate makes a repository require one of these USER:PASSWORD.
func (s *server) setPrivate(repo string, accepted ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.private[repo] = accepted
}

// count returns how many requests had the text in their method and path.
func (s *server) count(text string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		if strings.Contains(r, text) {
			n++
		}
	}
	return n
}

func (s *server) resetRequests() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests, s.headers = nil, nil
}

// direct calls the registry without going through the server.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	d.ServeHTTP(w, r)
	resp := w.Result()
	resp.Request = r
	return resp, nil
}

func (s *server) push(t testing.TB, ref string, img remote.Taggable) string {
	t.Helper()
	tag, err := name.ParseReference(s.host() + "/" + ref)
	if err != nil {
		t.Fatal(err)
	}
	switch img := img.(type) {
	case v1.Image:
		err = remote.Write(tag, img, remote.WithTransport(direct{s.registry}))
	case v1.ImageIndex:
		err = remote.WriteIndex(tag, img, remote.WithTransport(direct{s.registry}))
	default:
		err = remote.Put(tag, img, remote.WithTransport(direct{s.registry}))
	}
	if err != nil {
		t.Fatal(err)
	}
	if img, ok := img.(interface{ Digest() (v1.Hash, error) }); ok {
		h, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return h.String()
	}
	return ""
}

// secretFor returns a Secret with a .dockerconfigjson.
func secretFor(registry, userPassword string) host.PullSecret {
	raw, _ := json.Marshal(map[string]any{"auths": map[string]any{
		registry: map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(userPassword))},
	}})
	return host.PullSecret{Name: "regcred", Content: raw}
}

// closedPort returns an address where nothing listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// token serves a token server at the registry, and requires a token for everything
// else. It returns true if it has answered the request.
func token(s *server, w http.ResponseWriter, r *http.Request) bool {
	switch {
	case r.URL.Path == "/token":
		_, _ = w.Write([]byte(`{"token":"t"}`))
	case r.Header.Get("Authorization") == "":
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token",service="s"`)
		w.WriteHeader(http.StatusUnauthorized)
	default:
		return false
	}
	return true
}

// indexOf returns an index that holds only the image, without its platform.
func indexOf(img v1.Image) v1.ImageIndex {
	return mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img})
}
