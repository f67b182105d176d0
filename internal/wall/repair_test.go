// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"botbottle.dev/bottle-operator/internal/host"
)

// damage is something that others do to a wall.
type damage struct {
	name string
	// how are command lines. damageWords replaces words in them.
	how []string
	// found are the expected faults, in order.
	found []string
	// another means that the namespace's name is gone, so that a new namespace is
	// made.
	another bool
	// kept means that the filter keeps its counts.
	kept bool
}

// ofNode reports whether the damage is found in every wall of the node.
func (d damage) ofNode() bool { return strings.Contains(strings.Join(d.found, " "), bridgesTable) }

// damages are the cases of TestDamage. A command after "inside" runs in the
// namespace.
var damages = []damage{
	{name: "ruleset flushed", how: []string{"nft flush ruleset"}, found: []string{"open: filter TABLE is missing", "closed: table ip bottle-bridges is missing"}},
	{name: "IPv4 tables flushed", how: []string{"nft flush ruleset ip"}, found: []string{"closed: table ip bottle-bridges is missing"}, kept: true},
	{name: "rule for bridges deleted", how: []string{"nft flush chain ip bottle-bridges prerouting"}, found: []string{"closed: table ip bottle-bridges has other rules than it should"}, kept: true},
	{name: "chain for bridges deleted", how: []string{"nft flush chain ip bottle-bridges prerouting", "nft delete chain ip bottle-bridges prerouting"}, found: []string{"closed: table ip bottle-bridges has lost a chain"}, kept: true},
	{name: "rule for forwarded packets deleted", how: []string{"nft flush chain ip bottle-bridges forward"}, found: []string{"closed: table ip bottle-bridges has other rules than it should"}, kept: true},
	{name: "table for bridges switched off", how: []string{"nft add table ip bottle-bridges { flags dormant; }"}, found: []string{"closed: table ip bottle-bridges is switched off"}, kept: true},
	{name: "table deleted", how: []string{"nft delete table netdev TABLE"}, found: []string{"open: filter TABLE is missing"}},
	{name: "table switched off", how: []string{"nft add table netdev TABLE { flags dormant; }"}, found: []string{"open: filter TABLE is switched off"}},
	{name: "chain deleted", how: []string{"nft flush chain netdev TABLE ingress", "nft delete chain netdev TABLE ingress"}, found: []string{"open: filter TABLE has lost its chain"}},
	{name: "chain flushed", how: []string{"nft flush chain netdev TABLE ingress"}, found: []string{"open: filter TABLE has other rules than the wall's"}},
	{name: "rule put first", how: []string{"nft insert rule netdev TABLE ingress accept"}, found: []string{"open: filter TABLE has other rules than the wall's"}},
	{name: "rule put last", how: []string{"nft add rule netdev TABLE ingress accept"}, found: []string{"open: filter TABLE has other rules than the wall's"}},
	{name: "policy changed", how: []string{"nft chain netdev TABLE ingress { policy accept; }"}, found: []string{"open: filter TABLE has a chain with other settings than the wall's"}},
	{name: "chain added", how: []string{"nft add chain netdev TABLE other"}, found: []string{"open: filter TABLE has a chain that is not the wall's"}},
	{name: "link deleted", how: []string{"ip link del VETH"}, found: []string{"closed: link VETH is missing", "closed: bundle0 is missing in the namespace"}},
	{name: "link deleted from inside", how: []string{"inside ip link del bundle0"}, found: []string{"closed: link VETH is missing", "closed: bundle0 is missing in the namespace"}},
	{name: "link renamed", how: []string{"ip link set VETH down", "ip link set VETH name other", "ip link set other up"}, found: []string{"open: link VETH is missing while bundle0 is in the namespace"}},
	{name: "link in another bridge", how: []string{"ip link add other type bridge", "ip link set VETH master other"}, found: []string{"open: link VETH is in a bridge other than BRIDGE"}, kept: true},
	{name: "link in no bridge", how: []string{"ip link set VETH nomaster"}, found: []string{"closed: link VETH is not in a bridge"}, kept: true},
	{name: "link down", how: []string{"ip link set VETH down"}, found: []string{"closed: link VETH is down"}, kept: true},
	{name: "link without its mark", how: []string{"ip link set VETH alias x"}, found: []string{"closed: link VETH does not have the wall's mark"}, kept: true},
	{name: "link of another MAC", how: []string{"ip link set VETH address 02:00:00:00:00:09"}, found: []string{"closed: link VETH has a wrong MAC address"}, kept: true},
	// The bridge itself takes the lowest address and the lowest MTU of its ports.
	{name: "link of the bundle's MAC", how: []string{"ip link set VETH address BUNDLEMAC"}, found: []string{"open: link VETH has the bundle's MAC address", "open: bridge BRIDGE has the bundle's MAC address"}, kept: true},
	{name: "link of a lower MTU", how: []string{"ip link set VETH mtu 1400"}, found: []string{"closed: bundle0 in the namespace has a different MTU from the bridge"}, kept: true},
	{name: "link of a higher MTU", how: []string{"ip link set VETH mtu 9000"}, found: []string{"closed: link VETH has a different MTU from its bridge"}, kept: true},
	{name: "another link in its place", how: []string{"ip link del VETH", "ip link add VETH address ENDMAC type veth peer name other", "ip link set VETH alias MARK", "ip link set VETH master BRIDGE up"},
		found: []string{"closed: link VETH does not lead into the namespace", "closed: bundle0 is missing in the namespace"}},
	{name: "namespace's name deleted", how: []string{"ip netns del ID"}, another: true, found: []string{"closed: namespace PATH is missing"}},
	{name: "namespace unmounted", how: []string{"umount -l PATH"}, another: true, found: []string{"closed: namespace PATH is missing"}},
	{name: "namespace without its mark", how: []string{"inside ip link set lo alias x"}, found: []string{"closed: namespace PATH does not have the wall's mark"}, kept: true},
	{name: "second link inside", how: []string{"ip link add other type veth peer name extra netns ID"}, found: []string{`open: link "extra" is in the namespace`}, kept: true},
	{name: "link inside renamed", how: []string{"inside ip link set bundle0 down", "inside ip link set bundle0 name extra"},
		found: []string{"closed: link VETH does not lead into the namespace", `open: link "extra" is in the namespace`, "closed: bundle0 is missing in the namespace"}},
	{name: "another link inside of its name", how: []string{"inside ip link set bundle0 down", "inside ip link set bundle0 name extra", "ip link add other type veth peer name bundle0 netns ID", "inside ip link set bundle0 address HWADDR", "inside ip addr add ADDRESS dev bundle0", "inside ip link set bundle0 up"},
		found: []string{"open: bundle0 in the namespace does not lead to link VETH", `open: link "extra" is in the namespace`,
			"closed: the namespace does not have exactly the address ADDRESS", "closed: the namespace has routes other than the one to SUBNET"}},
	{name: "link inside down", how: []string{"inside ip link set bundle0 down"}, found: []string{"closed: bundle0 in the namespace is down"}, kept: true},
	{name: "link inside of another MAC", how: []string{"inside ip link set bundle0 address 02:00:00:00:00:09"}, found: []string{"closed: bundle0 in the namespace has a wrong MAC address"}, kept: true},
	{name: "loopback up", how: []string{"inside ip link set lo up"}, found: []string{"closed: lo in the namespace is up", "closed: the namespace does not have exactly the address ADDRESS", "closed: the namespace has routes other than the one to SUBNET"}, kept: true},
	{name: "second address", how: []string{"inside ip addr add 10.9.9.9/32 dev bundle0"}, found: []string{"closed: the namespace does not have exactly the address ADDRESS", "closed: the namespace has routes other than the one to SUBNET"}, kept: true},
	{name: "another address", how: []string{"inside ip addr flush dev bundle0", "inside ip addr add GATEWAY/24 dev bundle0"}, found: []string{"closed: the namespace does not have exactly the address ADDRESS"}, kept: true},
	{name: "default route", how: []string{"inside ip route add default via GATEWAY"}, found: []string{"closed: the namespace has routes other than the one to SUBNET"}, kept: true},
	{name: "route in another table", how: []string{"inside ip route add 10.0.0.0/8 dev bundle0 table 7"}, found: []string{"closed: the namespace has routes other than the one to SUBNET"}, kept: true},
	{name: "no route", how: []string{"inside ip route del SUBNET"}, found: []string{"closed: the namespace has no route to SUBNET"}, kept: true},
	{name: "everything but the filter", how: []string{"ip link del VETH", "ip netns del ID"}, another: true, found: []string{"closed: there is no wall"}},
}

func damageWords(spec host.WallSpec, path string) *strings.Replacer {
	return strings.NewReplacer("TABLE", tableName(spec.Owner), "VETH", spec.Owner.Veth(), "BRIDGE", spec.Owner.Bridge(), "ID", spec.Owner.ID(),
		"PATH", path, "ADDRESS", machinePrefix(spec).String(), "SUBNET", spec.Subnet.String(), "GATEWAY", spec.Subnet.Addr().Next().String(),
		"HWADDR", machineMAC(spec.Owner).String(), "ENDMAC", bundleEndMAC(spec.Owner).String(), "BUNDLEMAC", host.BundleMAC(spec.BundleIP).String(), "NODEPID", strconv.Itoa(os.Getpid()))
}

// do runs the command lines, where at leads to.
func (d damage) do(t *testing.T, spec host.WallSpec, path string, at ...string) {
	t.Helper()
	for _, line := range d.how {
		argv := slices.Clone(at)
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
			w.breakAndRepair(t, d, spec)
		})
	}
}

// breakAndRepair makes a wall and damages it. The damage must be found, and the wall must be
// as before once it is repaired. The bundle's end of the wall is where at leads to.
func (w *world) breakAndRepair(t *testing.T, d damage, spec host.WallSpec, at ...string) host.Wall {
	t.Helper()
	wall := w.stand(t, spec)
	greet(t, wall, spec)
	d.do(t, spec, wall.Path, at...)
	want := damageWords(spec, wall.Path).Replace(strings.Join(d.found, "\n"))
	if got := describe(w.inspect(t, spec).Faults); got != want {
		t.Errorf("found:\ngot\n%s\nwant\n%s", got, want)
	}
	repaired, err := w.tested.EnsureWall(t.Context(), spec)
	must(t, err)
	if got := describe(repaired.Faults); got != "" {
		t.Fatalf("repaired: got faults\n%s", got)
	}
	if (repaired.NetNS != wall.NetNS) != d.another {
		t.Errorf("namespace: got %v after %v, want another: %t", repaired.NetNS, wall.NetNS, d.another)
	}
	if kept := repaired.Accepted[8888] > 0; kept != d.kept {
		t.Errorf("counts: got %v, want them kept: %t", repaired.Accepted, d.kept)
	}
	greet(t, repaired, spec)
	if got, err := dial(t, wallNS(t, repaired), addrPort(spec.BundleIP, 9099), 100*time.Millisecond); err == nil {
		t.Errorf("another port: got %q, want no answer", got)
	}
	return repaired
}

// greet checks that the bundle answers through the wall.
func greet(t *testing.T, wall host.Wall, spec host.WallSpec) {
	t.Helper()
	if got, err := dial(t, wallNS(t, wall), addrPort(spec.BundleIP, 8888), soon); got != "hello" {
		t.Errorf("the bundle's port: got %q, %v, want hello", got, err)
	}
}

// TestNamespaceOfTheNode: a name for the node's own namespace is not a wall.
func TestNamespaceOfTheNode(t *testing.T) {
	w := newWorld(t)
	spec := newSpec(t, 50)
	w.addBundle(t, spec)
	wallNS(t, w.stand(t, spec)) // holds the namespace, and therefore its link
	must(t, removeNetNS(w.walls.path(spec.Owner)))
	run(t, "ip", "netns", "attach", spec.Owner.ID(), fmt.Sprint(os.Getpid()))
	t.Cleanup(func() { run(t, "ip", "netns", "del", spec.Owner.ID()) })
	path := w.walls.path(spec.Owner)
	if got, want := describe(w.inspect(t, spec).Faults), "open: "+path+" is the node's own network namespace"; got != want {
		t.Errorf("faults: got %s, want %s", got, want)
	}
	if _, err := w.walls.EnsureWall(t.Context(), spec); err == nil {
		t.Errorf("ensure: got nil, want ErrConflict")
	}
}

// TestChainBeforeOurs: a foreign chain that sees packets first could send them past
// the filter. We must not remove it.
func TestChainBeforeOurs(t *testing.T) {
	w := newWorld(t)
	spec := newSpec(t, 53)
	w.addBundle(t, spec)
	w.stand(t, spec)
	veth := spec.Owner.Veth()
	run(t, "nft", "add table netdev others; add chain netdev others late { type filter hook ingress device "+veth+" priority 0; }")
	t.Cleanup(func() { run(t, "nft", "delete", "table", "netdev", "others") })
	if got := describe(w.inspect(t, spec).Faults); got != "" {
		t.Errorf("with a chain behind the filter: got faults %s, want none", got)
	}
	run(t, "nft", "add chain netdev others early { type filter hook ingress device "+veth+" priority -2147483648; }")
	want := `open: chain "others early" sees packets before filter ` + tableName(spec.Owner)
	if got := describe(w.inspect(t, spec).Faults); got != want {
		t.Errorf("with a chain before the filter: got faults %s, want %s", got, want)
	}
	wall, err := w.walls.EnsureWall(t.Context(), spec)
	if got := describe(wall.Faults); err != nil || got != want {
		t.Errorf("ensure: got faults %s, %v, want %s", got, err, want)
	}
}

// TestBridgeWithTheBundlesMAC: the node would receive the bundle's frames. We must
// not change the bridge.
func TestBridgeWithTheBundlesMAC(t *testing.T) {
	w := newWorld(t)
	spec := newSpec(t, 55)
	w.addBundle(t, spec)
	w.stand(t, spec)
	run(t, "ip", "link", "set", spec.Owner.Bridge(), "address", host.BundleMAC(spec.BundleIP).String())
	want := "open: bridge " + spec.Owner.Bridge() + " has the bundle's MAC address"
	wall, err := w.walls.EnsureWall(t.Context(), spec)
	if got := describe(wall.Faults); err != nil || got != want {
		t.Errorf("ensure: got faults %s, %v, want %s", got, err, want)
	}
}

// TestManyPorts writes a large filter in one transaction.
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

// TestRefusedSpecs: nothing is made for an invalid spec.
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

// TestDeleteLeavesNoLink: DeleteWall deletes the namespace's link even if its end on
// the node was renamed, and even if something still runs in the namespace.
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

// TestSharedFolder: as with `ip netns`, other mount namespaces see a wall that is
// made later, and do not keep a deleted one alive.
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
