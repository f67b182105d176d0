// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hostcontract"
)

func TestNetworksContract(t *testing.T) {
	hostcontract.TestNetworks(t, func(*testing.T) hostcontract.NetworksFixture {
		return networksFixture(NewNetworks(nil))
	})
}

func networksFixture(n *Networks) hostcontract.NetworksFixture {
	var occupied []netip.Prefix
	return hostcontract.NetworksFixture{
		Networks: n,
		Put: func(t *testing.T, name string, net host.Network) {
			n.PutAs(name, net)
			t.Cleanup(func() { n.Remove(name) })
		},
		Occupy: func(_ *testing.T, p netip.Prefix) {
			occupied = append(occupied, p)
			n.Occupy(occupied...)
		},
		Names: func(*testing.T) []string { return keys(n.All()) },
		Down:  func(*testing.T) { n.Down() },
	}
}

func TestBundlesContract(t *testing.T) {
	hostcontract.TestBundles(t, func(t *testing.T) hostcontract.BundlesFixture {
		n := NewNetworks(nil)
		b := NewBundles(n)
		rules, secrets := t.TempDir(), t.TempDir()
		b.SetFolders(func(host.Owner) (string, string, error) { return rules, secrets, nil })
		b.AddImage("foreign:1", 8888, 9418, 9100)
		return hostcontract.BundlesFixture{
			NetworksFixture: networksFixture(n),
			Bundles:         b,
			Image:           "foreign:1",
			PutContainer: func(_ *testing.T, name string, owner host.Owner) {
				b.PutAs(name, host.Bundle{Owner: owner})
			},
			Containers: func(*testing.T) []string { return keys(b.All()) },
			Exit:       func(_ *testing.T, owner host.Owner) { b.Exit(owner, 137) },
			Env: func(_ *testing.T, owner host.Owner) []string {
				spec, _ := b.Spec(owner)
				return spec.Env
			},
			Decide:  func(_ *testing.T, owner host.Owner, d host.Decision) { b.Decide(owner, d) },
			PutFile: func(_ *testing.T, owner host.Owner, path string, data []byte) { b.PutFile(owner, path, data) },
			PutLink: func(_ *testing.T, owner host.Owner, path, target string) { b.PutLink(owner, path, target) },
		}
	})
}

// TestBundlesLostReply checks that a call with a fault After has its effect and
// fails.
func TestBundlesLostReply(t *testing.T) {
	lost := errors.New("reply lost")
	n := NewNetworks(nil)
	b := NewBundles(n)
	owner := host.Owner{UID: "12345678-0", Slug: "demo", Cluster: "c", Node: "n"}
	subnet := netip.MustParsePrefix("192.168.44.0/24")
	spec := host.BundleSpec{Owner: owner, IP: netip.MustParseAddr("192.168.44.2")}
	if err := n.EnsureNetwork(t.Context(), host.Network{Owner: owner, Subnet: subnet}); err != nil {
		t.Fatal(err)
	}
	n.Fail("EnsureBundle", After, 1, lost)
	if got, err := b.EnsureBundle(t.Context(), spec); !errors.Is(err, lost) || got != (host.Bundle{}) {
		t.Errorf("ensure: got %+v, %v, want no bundle and the injected error", got, err)
	}
	if got := b.All()[owner.ID()]; !got.Running {
		t.Errorf("container: got %+v, want it running", got)
	}
	want := []string{"EnsureNetwork bottle-demo-12345678", "EnsureBundle bottle-demo-12345678"}
	if got := b.Calls(); !slices.Equal(got, want) {
		t.Errorf("calls: got %q, want %q", got, want)
	}
}

func keys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	return out
}
