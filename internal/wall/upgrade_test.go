// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/nftables/expr"
	"k8s.io/utils/clock"

	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/internal/state"
)

// earlier are the filters of earlier releases, with the digest that each release
// recorded for upgradeSpec. The digests must never change: a new agent kills every machine
// behind a filter that it does not know.
var earlier = []struct {
	name   string
	rules  func(host.WallSpec) []rule
	digest string
}{
	{"without the destination MAC address", uncheckedRules, "899e0ee0389bee4199cfc436fd5bd09e11912b25a0e3bce678ef8f23141b70eb"},
	{"with tracked connections", trackedRules, "1fb0ea99af937d1c5cda16c079ae90cb52604db8f605e0f5f0ce7d90fd214686"},
}

func upgradeSpec() host.WallSpec {
	return host.WallSpec{
		Owner:     host.Owner{UID: "0a1b2c3d-0000-4000-8000-000000000000", Namespace: "team-a", Name: "demo", Slug: "demo", Cluster: "cluster-1", Node: "node-1"},
		Subnet:    netip.MustParsePrefix("192.168.56.0/24"),
		BundleIP:  netip.MustParseAddr("192.168.56.2"),
		MachineIP: netip.MustParseAddr("192.168.56.3"),
		Ports:     []int32{8888, 9418},
	}
}

// uncheckedRules returns the rules of releases that did not check the destination MAC
// address.
func uncheckedRules(s host.WallSpec) []rule {
	mac, machine, bundle := machineMAC(s.Owner), s.MachineIP.AsSlice(), s.BundleIP.AsSlice()
	var rules []rule
	for _, port := range portsOf(s) {
		rules = append(rules, rule{port: port, comment: fmt.Sprintf("bundle port %d", port), exprs: slices.Concat(
			match(link(6, 8), append(slices.Clone(mac), 0x08, 0x00)),
			match(network(0, 1), []byte{0x45}),
			matchMasked(network(6, 2), []byte{0x3f, 0xff}, []byte{0, 0}),
			match(network(9, 1), []byte{protoTCP}),
			match(network(12, 8), slices.Concat(machine, bundle)),
			match(destinationPort(), binary.BigEndian.AppendUint16(nil, uint16(port))),
			verdict(expr.VerdictAccept),
		)})
	}
	rules = append(rules, rule{comment: "who is the bundle", exprs: slices.Concat(
		match(link(6, 8), append(slices.Clone(mac), 0x08, 0x06)),
		match(network(0, 6), []byte{0, 1, 0x08, 0x00, 6, 4}),
		[]expr.Any{
			network(6, 2),
			&expr.Cmp{Op: expr.CmpOpGte, Register: reg0, Data: []byte{0, 1}},
			&expr.Cmp{Op: expr.CmpOpLte, Register: reg0, Data: []byte{0, 2}},
		},
		match(network(8, 10), slices.Concat(mac, machine)),
		match(network(24, 4), bundle),
		verdict(expr.VerdictAccept),
	)})
	return append(rules, dropRules(markOf(s.Owner))...)
}

// TestUpgrade: an agent of this release finds a machine behind the filter of an earlier
// release. It replaces the filter, and the machine keeps running.
func TestUpgrade(t *testing.T) {
	for _, e := range earlier {
		t.Run(e.name, func(t *testing.T) { wantUpgraded(t, e.rules, e.digest) })
	}
}

func wantUpgraded(t *testing.T, rules func(host.WallSpec) []rule, digest string) {
	w := newWorld(t)
	spec := upgradeSpec()
	w.addBundle(t, spec, 8888)
	wall := w.stand(t, spec)
	must(t, replaceFilter(spec, rules(spec)))
	found := w.inspect(t, spec)
	want := []host.WallFault{{What: "filter " + tableName(spec.Owner) + " has other rules than the wall's", Open: true, Rules: true}}
	if !slices.Equal(found.Faults, want) || found.Filter != digest {
		t.Errorf("the earlier filter: got faults %v and digest %s, want %v and %s", found.Faults, found.Filter, want, digest)
	}

	machines := hosttest.NewMachines(nil)
	machines.Add(host.Machine{Name: spec.Owner.ID(), UID: spec.Owner.UID, State: host.MachineCreated})
	must(t, machines.StartMachine(t.Context(), spec.Owner.ID(), wall.Path))
	g := upgradedEnforcer(t, w, spec, machines, digest)
	g.Scan(t.Context())
	if vmms, err := machines.VMMs(t.Context(), []string{spec.Owner.ID()}); err != nil || len(vmms) != 1 || vmms[0].NetNS != wall.NetNS {
		t.Errorf("VMMs after the scan: got %v, %v, want the one in %v", vmms, err, wall.NetNS)
	}
	repaired := w.inspect(t, spec)
	if got := describe(repaired.Faults); got != "" || repaired.NetNS != wall.NetNS {
		t.Errorf("after the scan: got faults %q in %v, want none in %v", got, repaired.NetNS, wall.NetNS)
	}
	greet(t, repaired, spec)
	newSender(t, wallNS(t, repaired)).send(t, frameBy(spec, macOf(t, spec.Owner.Bridge()), host.Drop{Proto: "tcp", Addr: spec.BundleIP, Port: 8888}))
	if got := w.inspect(t, spec); got.Dropped != 1 {
		t.Errorf("a frame to the bridge's MAC address: got %d dropped, want 1", got.Dropped)
	}
}

// upgradedEnforcer returns an enforcer that starts with the record that an earlier
// release left.
func upgradedEnforcer(t *testing.T, w *world, spec host.WallSpec, machines host.Machines, digest string) *enforce.Enforcer {
	t.Helper()
	dir, err := state.Open(t.TempDir())
	must(t, err)
	folder, err := dir.Folder(spec.Owner.UID)
	must(t, err)
	must(t, folder.Ensure(spec.Owner))
	must(t, folder.WriteWall(state.Wall{Spec: spec, Filter: digest}))
	g, err := enforce.New(enforce.Options{Walls: w.walls, Machines: machines, Canaries: &hosttest.Canaries{}, State: dir, Clock: clock.RealClock{}, Log: logr.Discard(), Interval: time.Second})
	must(t, err)
	return g
}
