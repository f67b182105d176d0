// SPDX-License-Identifier: Apache-2.0

package image

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-logr/logr/funcr"

	"botbottle.dev/bottle-operator/internal/host"
)

// Earlier releases used a mirror on the node without a flag for its address, so the log
// says that it is refused now.
func TestRefusedMirrorIsLogged(t *testing.T) {
	var logged []string
	s, err := New(Options{Dir: t.TempDir(), PlainHTTP: []string{"127.0.0.3:5000", "registry.test:80"}, Mirrors: []string{"docker.io=127.0.0.2:5000/hub,127.0.0.9:5000,mirror.test"},
		AllowNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.9/32")}, Log: funcr.New(func(_, args string) { logged = append(logged, args) }, funcr.Options{})})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if len(logged) != 2 || !strings.Contains(logged[0], "127.0.0.2:5000") || !strings.Contains(logged[1], "127.0.0.3:5000") || !strings.Contains(logged[0], "--registry-allow-networks") {
		t.Errorf("got %q logged, want a line for each of the two that are refused", logged)
	}
}

// The agent connects to the administrator's proxy at any address, but never asks the proxy
// to connect to an address that the agent itself refuses.
func TestProxy(t *testing.T) {
	var asked atomic.Int64
	var hosts []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		hosts = append(hosts, r.Host)
		http.Error(w, innerWords, http.StatusForbidden)
	}))
	t.Cleanup(proxy.Close)
	to, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(o *Options) { o.AllowNetworks = nil })
	w.Store.proxy = func(*http.Request) (*url.URL, error) { return to, nil }
	for _, name := range []string{"127.0.0.1:5000", "169.254.169.254", "127.1:80", "2130706433:80", "0x7f.1:80", "localhost:5000", "x.localhost:443"} {
		failed := w.wantFailed(host.ImageRequest{Reference: name + "/demo:1", For: "a"}, "registry "+name)
		if n := asked.Load(); n > 0 {
			t.Fatalf("%s: got the proxy asked for %v and %v, want it not asked", name, hosts, failed)
		}
	}
	failed := w.wantFailed(host.ImageRequest{Reference: "registry.example.com/demo:1", For: "a"}, "the agent cannot connect to it")
	if asked.Load() == 0 || hosts[0] != "registry.example.com:443" || strings.Contains(failed.Error(), innerWords) {
		t.Errorf("got the proxy asked for %v and %v, want it asked, and not quoted", hosts, failed)
	}
}
