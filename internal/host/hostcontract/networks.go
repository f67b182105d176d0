// SPDX-License-Identifier: Apache-2.0

// Package hostcontract has the test suites that every implementation of the ports
// in internal/host must pass. The in-memory fakes and the real adapters run the
// same suites. The package creates no environment: the caller's fixture does, and
// also acts there as other users of a node would.
package hostcontract

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/host"
)

// NetworksFixture is an implementation of host.Networks and its environment.
// Whatever a test creates with these functions is removed at the end of the test.
type NetworksFixture struct {
	Networks host.Networks
	// Put creates a network with this name. If n.Owner has a UID, the network has
	// its labels; otherwise it has none.
	Put func(t *testing.T, name string, n host.Network)
	// Occupy gives the node a route to the prefix.
	Occupy func(t *testing.T, prefix netip.Prefix)
	// Names returns the names of all networks.
	Names func(t *testing.T) []string
	// Down stops docker, or the container runtime.
	Down func(t *testing.T)
	// Up starts it again. It is nil if watches are told of its end, and not only that
	// everything may have changed meanwhile.
	Up func(t *testing.T)
	// Place makes the Pod in which the owner's network is made. It is nil if networks
	// need none; then all are on the node, and must not overlap.
	Place func(t *testing.T, owner host.Owner)
}

// networkTest is a test of the suite.
type networkTest struct {
	name string
	run  func(t *testing.T, f NetworksFixture)
}

// networkTests are the tests of every implementation.
var networkTests = []networkTest{
	{"create, find, delete", networkLife},
	{"a different network is replaced", networkReplaced},
	{"networks of several Bottles are separate", networkOfAnotherBottle},
	{"a foreign network is reported and not changed", networkForeign},
	{"docker down", networkDown},
	{"cancelled", networkCancelled},
}

// TestNetworks runs the suite, with a new fixture for every test. All networks are on the
// node.
func TestNetworks(t *testing.T, fixture func(t *testing.T) NetworksFixture) {
	runNetworkTests(t, fixture, append([]networkTest{
		{"overlap", networkOverlap},
		{"occupied prefixes", networkOccupied},
	}, networkTests...))
}

func runNetworkTests(t *testing.T, fixture func(t *testing.T) NetworksFixture, tests []networkTest) {
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, fixture(t)) })
	}
}

// newOwner returns an owner that no other test has.
func newOwner(slug string) host.Owner {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	h := hex.EncodeToString(b)
	uid := strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
	return host.Owner{UID: uid, Namespace: "team-a", Name: "my-" + slug, Slug: slug, Cluster: "cluster-1", Node: "node-1"}
}

func newNetwork(owner host.Owner, third string) host.Network {
	return host.Network{
		Owner:   owner,
		Subnet:  netip.MustParsePrefix("192.168." + third + ".0/24"),
		Gateway: netip.MustParseAddr("192.168." + third + ".1"),
	}
}

func networkLife(t *testing.T, f NetworksFixture) {
	n := f.place(t, newNetwork(newOwner("demo"), "44"))
	if _, err := f.Networks.InspectNetwork(t.Context(), n.Owner); !errors.Is(err, host.ErrNotFound) {
		t.Fatalf("inspect before: got %v, want ErrNotFound", err)
	}
	mustDo(t, "delete an absent network", f.Networks.DeleteNetwork(t.Context(), n.Owner))
	// Do every step twice, because all methods may be called again.
	for range 2 {
		mustDo(t, "ensure", f.Networks.EnsureNetwork(t.Context(), n))
		wantNetwork(t, f, n)
	}
	list, err := f.Networks.ListNetworks(t.Context())
	mustDo(t, "list", err)
	if got := ownNetworks(list, n.Owner); len(got) != 1 || got[0] != n {
		t.Errorf("list: got %v, want one %v", got, n)
	}
	if got := count(f.Names(t), n.Owner.ID()); got != 1 {
		t.Errorf("networks named %s: got %d, want 1", n.Owner.ID(), got)
	}
	for range 2 {
		mustDo(t, "delete", f.Networks.DeleteNetwork(t.Context(), n.Owner))
		if got := count(f.Names(t), n.Owner.ID()); got != 0 {
			t.Errorf("networks left: got %d, want 0", got)
		}
	}
}

func networkReplaced(t *testing.T, f NetworksFixture) {
	owner := newOwner("demo")
	old, want := f.place(t, newNetwork(owner, "45")), newNetwork(owner, "46")
	mustDo(t, "ensure", f.Networks.EnsureNetwork(t.Context(), old))
	mustDo(t, "ensure another subnet", f.Networks.EnsureNetwork(t.Context(), want))
	wantNetwork(t, f, want)
	want.Gateway = netip.MustParseAddr("192.168.46.254")
	mustDo(t, "ensure another gateway", f.Networks.EnsureNetwork(t.Context(), want))
	wantNetwork(t, f, want)
	if got := count(f.Names(t), owner.ID()); got != 1 {
		t.Errorf("networks named %s: got %d, want 1", owner.ID(), got)
	}
	mustDo(t, "delete", f.Networks.DeleteNetwork(t.Context(), owner))
}

func networkOfAnotherBottle(t *testing.T, f NetworksFixture) {
	a, b := newNetwork(newOwner("demo"), "47"), newNetwork(newOwner("demo"), "48")
	c := newNetwork(newOwner("other-cluster"), "49")
	c.Owner.Cluster = "cluster-2"
	for _, n := range []host.Network{a, b, c} {
		f.place(t, n)
		mustDo(t, "ensure", f.Networks.EnsureNetwork(t.Context(), n))
	}
	mustDo(t, "delete", f.Networks.DeleteNetwork(t.Context(), a.Owner))
	list, err := f.Networks.ListNetworks(t.Context())
	mustDo(t, "list", err)
	// The list also has the networks of other clusters: callers filter it.
	for _, n := range []host.Network{b, c} {
		wantNetwork(t, f, n)
		if got := ownNetworks(list, n.Owner); len(got) != 1 {
			t.Errorf("list: got %v, want one of %v", got, n.Owner)
		}
		mustDo(t, "delete", f.Networks.DeleteNetwork(t.Context(), n.Owner))
	}
}

func networkForeign(t *testing.T, f NetworksFixture) {
	for name, change := range map[string]func(*host.Owner){
		"without labels":     func(o *host.Owner) { *o = host.Owner{} },
		"of another cluster": func(o *host.Owner) { o.Cluster = "cluster-2" },
		"of another node":    func(o *host.Owner) { o.Node = "node-2" },
		"of another Bottle":  func(o *host.Owner) { o.UID = o.UID8() + "-0000" },
	} {
		t.Run(name, func(t *testing.T) {
			n := f.place(t, newNetwork(newOwner("demo"), "50"))
			theirs := n
			change(&theirs.Owner)
			f.Put(t, n.Owner.ID(), theirs)
			_, err := f.Networks.InspectNetwork(t.Context(), n.Owner)
			wantConflict(t, "inspect", err, n.Owner.ID())
			wantConflict(t, "ensure", f.Networks.EnsureNetwork(t.Context(), n), n.Owner.ID())
			mustDo(t, "delete", f.Networks.DeleteNetwork(t.Context(), n.Owner))
			if got := count(f.Names(t), n.Owner.ID()); got != 1 {
				t.Errorf("foreign networks left: got %d, want 1", got)
			}
		})
	}
}

func networkOverlap(t *testing.T, f NetworksFixture) {
	taken := newNetwork(host.Owner{}, "51")
	f.Put(t, "somebodys", taken)
	owner := newOwner("demo")
	n := newNetwork(owner, "51")
	if err := f.Networks.EnsureNetwork(t.Context(), n); !errors.Is(err, host.ErrOverlap) {
		t.Fatalf("ensure on a taken subnet: got %v, want ErrOverlap", err)
	}
	n = newNetwork(owner, "52")
	mustDo(t, "ensure on a free subnet", f.Networks.EnsureNetwork(t.Context(), n))
	wantNetwork(t, f, n)
	mustDo(t, "delete", f.Networks.DeleteNetwork(t.Context(), owner))
}

func networkOccupied(t *testing.T, f NetworksFixture) {
	own, other := newNetwork(newOwner("demo"), "53"), newNetwork(newOwner("other"), "54")
	foreign, route := newNetwork(host.Owner{}, "55"), netip.MustParsePrefix("192.168.56.128/25")
	mustDo(t, "ensure", f.Networks.EnsureNetwork(t.Context(), own))
	mustDo(t, "ensure", f.Networks.EnsureNetwork(t.Context(), other))
	f.Put(t, "somebodys", foreign)
	f.Occupy(t, route)

	got, err := f.Networks.OccupiedPrefixes(t.Context(), own.Owner)
	mustDo(t, "occupied prefixes", err)
	for _, want := range []netip.Prefix{other.Subnet, foreign.Subnet, route} {
		if !slices.Contains(got, want) {
			t.Errorf("occupied: got %v, want %s among them", got, want)
		}
	}
	for _, p := range got {
		if p.Overlaps(own.Subnet) {
			t.Errorf("occupied: got %s, want nothing on the owner's own %s", p, own.Subnet)
		}
		if !p.IsValid() || p.Bits() == 0 {
			t.Errorf("occupied: got %s, want no default route", p)
		}
	}
	mustDo(t, "delete", f.Networks.DeleteNetwork(t.Context(), own.Owner))
	mustDo(t, "delete", f.Networks.DeleteNetwork(t.Context(), other.Owner))
}

func networkDown(t *testing.T, f NetworksFixture) {
	n := f.place(t, newNetwork(newOwner("demo"), "57"))
	f.Down(t)
	_, inspect := f.Networks.InspectNetwork(t.Context(), n.Owner)
	_, occupied := f.Networks.OccupiedPrefixes(t.Context(), n.Owner)
	_, list := f.Networks.ListNetworks(t.Context())
	for call, err := range map[string]error{
		"inspect": inspect, "occupied": occupied, "list": list,
		"ensure": f.Networks.EnsureNetwork(t.Context(), n),
		"delete": f.Networks.DeleteNetwork(t.Context(), n.Owner),
	} {
		if !errors.Is(err, host.ErrUnavailable) {
			t.Errorf("%s: got %v, want ErrUnavailable", call, err)
		}
	}
}

func networkCancelled(t *testing.T, f NetworksFixture) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := f.Networks.InspectNetwork(ctx, newOwner("demo"))
	if !errors.Is(err, context.Canceled) || errors.Is(err, host.ErrUnavailable) {
		t.Errorf("inspect: got %v, want context.Canceled without ErrUnavailable", err)
	}
}

func wantNetwork(t *testing.T, f NetworksFixture, want host.Network) {
	t.Helper()
	got, err := f.Networks.InspectNetwork(t.Context(), want.Owner)
	mustDo(t, "inspect", err)
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("network (-want +got):\n%s", diff)
	}
}

// wantConflict wants an ErrConflict that names the conflicting object.
func wantConflict(t *testing.T, what string, err error, name string) {
	t.Helper()
	if !errors.Is(err, host.ErrConflict) || !strings.Contains(err.Error(), name) {
		t.Errorf("%s: got %v, want ErrConflict that names %s", what, err, name)
	}
}

func mustDo(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: got %v, want nil", what, err)
	}
}

func ownNetworks(list []host.Network, owner host.Owner) []host.Network {
	return slices.DeleteFunc(slices.Clone(list), func(n host.Network) bool { return n.Owner != owner })
}

func count(names []string, name string) int {
	n := 0
	for _, x := range names {
		if x == name {
			n++
		}
	}
	return n
}
