// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"net/http"
	"net/url"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"
)

// Every network and host that the agent's flags and environment name is known.
func TestSurroundingsOfTheFlags(t *testing.T) {
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "https_proxy"} {
		t.Setenv(name, "")
	}
	t.Setenv("HTTPS_PROXY", "http://user:hunter22@192.168.20.1:3128")
	o := &AgentOptions{}
	err := parse(t, o, "--node-name", "n",
		"--reserved-networks", "192.168.64.0/18,10.20.0.0/16",
		"--egress-closed", "192.168.0.0/16,192.168.32.0/20", "--registry-allow-networks", "192.168.0.0/15,192.168.30.7/32",
		"--image-mirror", "docker.io=192.168.21.1:5000/hub,mirror.example.com", "--image-mirror", "192.168.22.1=[fd00::2]:5000",
		"--image-plain-http", "192.168.23.1:5000", "--default-image", "192.168.24.1:5000/guest:1",
		"--prewarm-image", "192.168.25.1/a/b:2", "--prewarm-image", "file:x.tar", "--docker-host", "tcp://192.168.26.1:2375")
	if err != nil {
		t.Fatal(err)
	}
	fixed, err := o.fixedNetworks()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range fixed {
		got = append(got, r.String())
	}
	slices.Sort(got)
	want := []string{ // without the networks that cover the whole pool
		"10.20.0.0/16 (--reserved-networks)", "192.168.30.7/32 (--registry-allow-networks)", "192.168.32.0/20 (--egress-closed)", "192.168.64.0/18 (--reserved-networks)",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("networks (-want +got):\n%s", diff)
	}

	cfg := &rest.Config{Host: "https://192.168.27.1:6443", Proxy: func(*http.Request) (*url.URL, error) {
		return &url.URL{Scheme: "http", Host: "proxy.example.com:3128"}, nil
	}}
	got = nil
	for _, h := range append(o.hosts(), apiHosts(cfg)...) {
		got = append(got, h.Name+" "+h.By)
	}
	want = []string{
		"index.docker.io a registry of --image-mirror", "192.168.21.1 a mirror of --image-mirror", "mirror.example.com a mirror of --image-mirror",
		"192.168.22.1 a registry of --image-mirror", "fd00::2 a mirror of --image-mirror",
		"192.168.23.1 a registry of --image-plain-http", "192.168.24.1 the registry of --default-image", "192.168.25.1 a registry of --prewarm-image",
		"192.168.26.1 --docker-host", "192.168.20.1 the agent's HTTP proxy",
		"192.168.27.1 the API server", "proxy.example.com the proxy to the API server",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("hosts (-want +got):\n%s", diff)
	}
}

// --egress-closed and similar flags do not reserve the whole pool, even if several
// networks together cover it.
func TestThePoolIsClosedInPieces(t *testing.T) {
	for name, args := range map[string][]string{
		"halves":       {"--egress-closed", "192.168.0.0/17,192.168.128.0/17"},
		"two flags":    {"--egress-closed", "10.0.0.0/8,192.168.0.0/17", "--egress-closed", "192.168.128.0/17"},
		"but excluded": {"--egress-closed", "192.168.0.0/17", "--subnet-exclude", "192.168.128.0/17"},
		"registries":   {"--registry-allow-networks", "192.168.128.0/17,192.168.0.0/17"},
	} {
		t.Run(name, func(t *testing.T) {
			o := &AgentOptions{}
			if err := parse(t, o, append([]string{"--node-name", "n"}, args...)...); err != nil {
				t.Fatal(err)
			}
			fixed, err := o.fixedNetworks()
			if err != nil {
				t.Fatal(err)
			}
			pool, err := o.pool()
			if err != nil {
				t.Fatal(err)
			}
			if got, err := pool.Pick("demo", nil, fixed); err != nil {
				t.Errorf("Pick: got %v, %v, want a subnet", got, err)
			}
		})
	}
}

// --reserved-networks means what it says, even if nothing is left.
func TestTheWholePoolMayBeReserved(t *testing.T) {
	o := &AgentOptions{}
	if err := parse(t, o, "--node-name", "n", "--reserved-networks", "192.168.0.0/16"); err != nil {
		t.Fatal(err)
	}
	fixed, err := o.fixedNetworks()
	if err != nil || len(fixed) != 1 {
		t.Fatalf("got %v, %v, want the network", fixed, err)
	}
	pool, err := o.pool()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := pool.Pick("demo", nil, fixed); err == nil {
		t.Errorf("Pick: got %v, want none", got)
	}
}
