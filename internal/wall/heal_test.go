// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"botbottle.dev/bottle-operator/internal/host"
)

// damage is something that happens to a wall behind our back.
type damage struct {
	name string
	// how are command lines, in which words of damageWords are replaced.
	how []string
	// found is each fault, in order.
	found []string
	// another: the namespace's name is gone, and it is made anew.
	another bool
	// kept: what the filter counted is still there.
	kept bool
}

// damages; "inside" before a command means in the namespace.
var damages = []damage{
	{name: "ruleset flushed", how: []string{"nft flush ruleset"}, found: []string{"open: filter TABLE is missing"}},
	{name: "table deleted", how: []string{"nft delete table netdev TABLE"}, found: []string{"open: filter TABLE is missing"}},
	{name: "table switched off", how: []string{"nft add table netdev TABLE { flags dormant; }"}, found: []string{"open: filter TABLE is switched off"}},
	{name: "chain deleted", how: []string{"nft flush chain netdev TABLE ingress", "nft delete chain netdev TABLE ingress"}, found: []string{"open: filter TABLE has lost its chain"}},
	{name: "chain flushed", how: []string{"nft flush chain netdev TABLE ingress"}, found: []string{"open: filter TABLE has other rules than the wall's"}},
	{name: "rule put first", how: []string{"nft insert rule netdev TABLE ingress accept"}, found: []string{"open: filter TABLE has other rules than the wall's"}},
	{name: "rule put last", how: []string{"nft add rule netdev TABLE ingress accept"}, found: []string{"open: filter TABLE has other rules than the wall's"}},
	{name: "policy changed", how: []string{"nft chain netdev TABLE ingress { policy accept; }"}, found: []string{"open: filter TABLE is not where packets come by"}},
	{name: "chain added", how: []string{"nft add chain netdev TABLE other"}, found: []string{"open: filter TABLE has a chain that is not the wall's"}},
	{name: "link deleted", how: []string{"ip link del VETH"}, found: []string{"shut: link VETH is missing", "shut: bundle0 is missing in the namespace"}},
	{name: "link deleted from inside", how: []string{"inside ip link del bundle0"}, found: []string{"shut: link VETH is missing", "shut: bundle0 is missing in the namespace"}},
	{name: "link renamed", how: []string{"ip link set VETH down", "ip link set VETH name other", "ip link set other up"}, found: []string{"open: link VETH is missing while bundle0 is in the namespace"}},
	{name: "link in another bridge", how: []string{"ip link add other type bridge", "ip link set VETH master other"}, found: []string{"open: link VETH is in another bridge than BRIDGE"}, kept: true},
	{name: "link in no bridge", how: []string{"ip link set VETH nomaster"}, found: []string{"shut: link VETH is in no bridge"}, kept: true},
	{name: "link down", how: []string{"ip link set VETH down"}, found: []string{"shut: link VETH is down"}, kept: true},
	{name: "link without its mark", how: []string{"ip link set VETH alias x"}, found: []string{"shut: link VETH does not bear the wall's mark"}, kept: true},
	{name: "link of another MAC", how: []string{"ip link set VETH address 02:00:00:00:00:09"}, found: []string{"shut: link VETH has another MAC address"}, kept: true},
	// The bridge takes the lowest address, and the lowest MTU, of its ports by itself.
	{name: "link of the bundle's MAC", how: []string{"ip link set VETH address BUNDLEMAC"}, found: []string{"open: link VETH has the bundle's MAC address", "open: bridge BRIDGE has the bundle's MAC address"}, kept: true},
	{name: "link of a lower MTU", how: []string{"ip link set VETH mtu 1400"}, found: []string{"shut: bundle0 in the namespace has another MTU than the bridge"}, kept: true},
	{name: "link of a higher MTU", how: []string{"ip link set VETH mtu 9000"}, found: []string{"shut: link VETH has another MTU than its bridge"}, kept: true},
	{name: "another link in its place", how: []string{"ip link del VETH", "ip link add VETH address NODEMAC type veth peer name other", "ip link set VETH alias MARK", "ip link set VETH master BRIDGE up"},
		found: []string{"shut: link VETH does not lead into the namespace", "shut: bundle0 is missing in the namespace"}},
	{name: "namespace's name deleted", how: []string{"ip netns del ID"}, another: true, found: []string{"shut: namespace PATH is missing"}},
	{name: "namespace unmounted", how: []string{"umount -l PATH"}, another: true, found: []string{"shut: namespace PATH is missing"}},
	{name: "namespace without its mark", how: []string{"inside ip link set lo alias x"}, found: []string{"shut: namespace PATH does not bear the wall's mark"}, kept: true},
	{name: "second link inside", how: []string{"ip link add other type veth peer name extra netns ID"}, found: []string{`open: link "extra" is in the namespace`}, kept: true},
	{name: "link inside renamed", how: []string{"inside ip link set bundle0 down", "inside ip link set bundle0 name extra"},
		found: []string{"shut: link VETH does not lead into the namespace", `open: link "extra" is in the namespace`, "shut: bundle0 is missing in the namespace"}},
	{name: "another link inside of its name", how: []string{"inside ip link set bundle0 down", "inside ip link set bundle0 name extra", "ip link add other type veth peer name bundle0 netns ID", "inside ip link set bundle0 address HWADDR", "inside ip addr add ADDRESS dev bundle0", "inside ip link set bundle0 up"},
		found: []string{"open: bundle0 in the namespace does not lead to link VETH", `open: link "extra" is in the namespace`,
			"shut: the namespace has other addresses than ADDRESS", "shut: the namespace has other routes than the one to SUBNET"}},
	{name: "link inside down", how: []string{"inside ip link set bundle0 down"}, found: []string{"shut: bundle0 in the namespace is down"}, kept: true},
	{name: "link inside of another MAC", how: []string{"inside ip link set bundle0 address 02:00:00:00:00:09"}, found: []string{"shut: bundle0 in the namespace has another MAC address"}, kept: true},
	{name: "loopback up", how: []string{"inside ip link set lo up"}, found: []string{"shut: lo in the namespace is up", "shut: the namespace has other addresses than ADDRESS", "shut: the namespace has other routes than the one to SUBNET"}, kept: true},
	{name: "second address", how: []string{"inside ip addr add 10.9.9.9/32 dev bundle0"}, found: []string{"shut: the namespace has other addresses than ADDRESS", "shut: the namespace has other routes than the one to SUBNET"}, kept: true},
	{name: "another address", how: []string{"inside ip addr flush dev bundle0", "inside ip addr add GATEWAY/24 dev bundle0"}, found: []string{"shut: the namespace has other addresses than ADDRESS"}, kept: true},
	{name: "default route", how: []string{"inside ip route add default via GATEWAY"}, found: []string{"shut: the namespace has other routes than the one to SUBNET"}, kept: true},
	{name: "route in another table", how: []string{"inside ip route add 10.0.0.0/8 dev bundle0 table 7"}, found: []string{"shut: the namespace has other routes than the one to SUBNET"}, kept: true},
	{name: "no route", how: []string{"inside ip route del SUBNET"}, found: []string{"shut: the namespace has no route to SUBNET"}, kept: true},
	{name: "everything but the filter", how: []string{"ip link del VETH", "ip netns del ID"}, another: true, found: []string{"shut: there is no wall"}},
}

func damageWords(spec host.WallSpec, path string) *strings.Replacer {
	return strings.NewReplacer("TABLE", tableName(spec.Owner), "VETH", spec.Owner.Veth(), "BRIDGE", spec.Owner.Bridge(), "ID", spec.Owner.ID(),
		"PATH", path, "ADDRESS", machinePrefix(spec).String(), "SUBNET", spec.Subnet.String(), "GATEWAY", spec.Subnet.Addr().Next().String(),
		"HWADDR", machineMAC(spec.Owner).String(), "NODEMAC", nodeMAC(spec.Owner).String(), "BUNDLEMAC", host.BundleMAC(spec.BundleIP).String())
}

// do runs the command lines.
func (d damage) do(t *testing.T, spec host.WallSpec, path string) {
	t.Helper()
	for _, line := range d.how {
		var argv []string
		if rest, ok := strings.CutPrefix(line, "inside "); ok {
			argv, line = []string{"nsenter", "--net=" + path}, rest
		}
		for _, word := range strings.Fields(line) {
			if word == "MARK" {
				argv = append(argv, markOf(spec.Owner))
				continue
			}
			argv = append(argv, damageWords(spec, path).Replace(word))
		}
		run(t, argv...)
	}
}

func TestDamage(t *testing.T) {
	for i, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			w := newWorld(t)
			spec := newSpec(t, 100+i)
			w.addBundle(t, spec, 8888, 9099)
			t.Cleanup(func() { _ = deleteLink("other") })
			wall := w.stand(t, spec)
			greet(t, wall, spec)
			d.do(t, spec, wall.Path)

			broken := w.inspect(t, spec)
			want := damageWords(spec, wall.Path).Replace(strings.Join(d.found, "\n"))
			if got := words(broken.Faults); got != want {
				t.Errorf("found:\ngot\n%s\nwant\n%s", got, want)
			}
			mended, err := w.walls.EnsureWall(t.Context(), spec)
			must(t, err)
			if got := words(mended.Faults); got != "" {
				t.Fatalf("mended: got faults\n%s", got)
			}
			if (mended.NetNS != wall.NetNS) != d.another {
				t.Errorf("namespace: got %v after %v, want another: %t", mended.NetNS, wall.NetNS, d.another)
			}
			if kept := mended.Accepted[8888] > 0; kept != d.kept {
				t.Errorf("counts: got %v, want them kept: %t", mended.Accepted, d.kept)
			}
			greet(t, mended, spec)
			if said, err := dial(t, wallNS(t, mended), addrPort(spec.BundleIP, 9099), 100*time.Millisecond); err == nil {
				t.Errorf("another port: got %q, want no answer", said)
			}
		})
	}
}

// greet wants the bundle to answer behind the wall.
func greet(t *testing.T, wall host.Wall, spec host.WallSpec) {
	t.Helper()
	if said, err := dial(t, wallNS(t, wall), addrPort(spec.BundleIP, 8888), soon); said != "hello" {
		t.Errorf("the bundle's port: got %q, %v, want hello", said, err)
	}
}

// TestNamespaceOfTheNode: a name that leads to the node itself is no wall.
func TestNamespaceOfTheNode(t *testing.T) {
	w := newWorld(t)
	spec := newSpec(t, 50)
	w.addBundle(t, spec)
	w.stand(t, spec)
	must(t, removeNetNS(w.walls.path(spec.Owner)))
	run(t, "ip", "netns", "attach", spec.Owner.ID(), fmt.Sprint(os.Getpid()))
	t.Cleanup(func() { run(t, "ip", "netns", "del", spec.Owner.ID()) })
	path := w.walls.path(spec.Owner)
	if got, want := words(w.inspect(t, spec).Faults), "open: "+path+" is the node's own network namespace"; got != want {
		t.Errorf("faults: got %s, want %s", got, want)
	}
	if _, err := w.walls.EnsureWall(t.Context(), spec); err == nil {
		t.Errorf("ensure: got nil, want ErrConflict")
	}
}

// TestChainBeforeOurs: somebody else's chain that sees packets first could send
// them past the filter. It is not ours to remove.
func TestChainBeforeOurs(t *testing.T) {
	w := newWorld(t)
	spec := newSpec(t, 53)
	w.addBundle(t, spec)
	w.stand(t, spec)
	veth := spec.Owner.Veth()
	run(t, "nft", "add table netdev others; add chain netdev others late { type filter hook ingress device "+veth+" priority 0; }")
	t.Cleanup(func() { run(t, "nft", "delete", "table", "netdev", "others") })
	if got := words(w.inspect(t, spec).Faults); got != "" {
		t.Errorf("with a chain behind the filter: got faults %s, want none", got)
	}
	run(t, "nft", "add chain netdev others early { type filter hook ingress device "+veth+" priority -2147483648; }")
	want := `open: chain "others early" sees packets before filter ` + tableName(spec.Owner)
	if got := words(w.inspect(t, spec).Faults); got != want {
		t.Errorf("with a chain before the filter: got faults %s, want %s", got, want)
	}
	wall, err := w.walls.EnsureWall(t.Context(), spec)
	if got := words(wall.Faults); err != nil || got != want {
		t.Errorf("ensure: got faults %s, %v, want %s", got, err, want)
	}
}

// TestBridgeWithTheBundlesMAC: its frames would be the node's. The bridge is not
// ours to change.
func TestBridgeWithTheBundlesMAC(t *testing.T) {
	w := newWorld(t)
	spec := newSpec(t, 55)
	w.addBundle(t, spec)
	w.stand(t, spec)
	run(t, "ip", "link", "set", spec.Owner.Bridge(), "address", host.BundleMAC(spec.BundleIP).String())
	want := "open: bridge " + spec.Owner.Bridge() + " has the bundle's MAC address"
	wall, err := w.walls.EnsureWall(t.Context(), spec)
	if got := words(wall.Faults); err != nil || got != want {
		t.Errorf("ensure: got faults %s, %v, want %s", got, err, want)
	}
}

// TestManyPorts writes a large filter in one go.
func TestManyPorts(t *testing.T) {
	w := newWorld(t)
	spec := newSpec(t, 54)
	spec.Ports = []int32{65535, 1, 1}
	for p := range int32(500) {
		spec.Ports = append(spec.Ports, 8900-p)
	}
	w.addBundle(t, spec, 8888)
	wall := w.stand(t, spec)
	greet(t, wall, spec)
	if got := w.inspect(t, spec).Accepted; len(got) != 502 || got[8888] == 0 {
		t.Errorf("accepted: got %d ports and %d packets to 8888, want 502 and some", len(got), got[8888])
	}
}

// TestRefusedSpecs: nothing is made of what cannot be meant.
func TestRefusedSpecs(t *testing.T) {
	w := New(Options{Dir: t.TempDir()})
	for name, change := range map[string]func(s *host.WallSpec){
		"bundle elsewhere":    func(s *host.WallSpec) { s.BundleIP = netip.MustParseAddr("192.168.45.2") },
		"no machine":          func(s *host.WallSpec) { s.MachineIP = netip.Addr{} },
		"one address for two": func(s *host.WallSpec) { s.MachineIP = s.BundleIP },
		"IPv6":                func(s *host.WallSpec) { s.Subnet = netip.MustParsePrefix("fd00::/64") },
		"port 0":              func(s *host.WallSpec) { s.Ports = []int32{0} },
		"port 65536":          func(s *host.WallSpec) { s.Ports = []int32{65536} },
		"path for a slug":     func(s *host.WallSpec) { s.Owner.Slug = "../x" },
		"no UID":              func(s *host.WallSpec) { s.Owner.UID = "" },
		"mark in a mark":      func(s *host.WallSpec) { s.Owner.Cluster = "a uid=b" },
	} {
		spec := newSpec(t, 44)
		change(&spec)
		if _, err := w.EnsureWall(t.Context(), spec); !errors.Is(err, host.ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", name, err)
		}
	}
}

// TestDeleteLeavesNoLink: the namespace's link is cut whatever it is called by
// now at the node's end, and though something still runs there.
func TestDeleteLeavesNoLink(t *testing.T) {
	w := newWorld(t)
	spec := newSpec(t, 51)
	w.addBundle(t, spec)
	ns := wallNS(t, w.stand(t, spec)) // holds the namespace
	damage{how: []string{"ip link set VETH down", "ip link set VETH name other", "ip link set other up"}}.do(t, spec, "")
	w.remove(t, spec)
	must(t, inNetNS(ns, func(h *netlink.Handle) error {
		links, err := h.LinkList()
		if len(links) != 1 {
			t.Errorf("links in the namespace: got %v, want lo alone", links)
		}
		return err
	}))
}

// TestSharedFolder: other mount namespaces see a wall that is made later, and
// hold none that is deleted, as with `ip netns`.
func TestSharedFolder(t *testing.T) {
	w := newWorld(t)
	spec := newSpec(t, 52)
	w.addBundle(t, spec)
	w.stand(t, spec)
	if out := run(t, "ip", "netns", "list"); !strings.Contains(out, spec.Owner.ID()) {
		t.Errorf("ip netns list: got %q, want %s in it", out, spec.Owner.ID())
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	shared := false
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 6 && f[4] == filepath.Clean(DefaultDir) {
			shared = shared || strings.HasPrefix(f[6], "shared:")
		}
	}
	if !shared {
		t.Errorf("%s: got no shared mount, want one", DefaultDir)
	}
}
