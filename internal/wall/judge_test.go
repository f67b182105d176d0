// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

// soundFacts returns the facts of a wall without faults.
func soundFacts(t *testing.T, spec host.WallSpec) (*expected, facts) {
	t.Helper()
	want, err := expect(spec)
	must(t, err)
	mark, mac := markOf(spec.Owner), machineMAC(spec.Owner).String()
	var rules []writtenRule
	for _, form := range want.forms {
		rules = append(rules, writtenRule{chain: chainName, normal: form})
	}
	subnet := &net.IPNet{IP: spec.Subnet.Addr().AsSlice(), Mask: net.CIDRMask(24, 32)}
	return want, facts{
		path: "/ns", kind: fileNetNS, id: host.NetNS{Dev: 4, Inode: 7},
		bundleEnd: &attrs{name: spec.Owner.Veth(), kind: "veth", alias: mark, index: 10, parent: 2, master: 5, mtu: 1500, peersNS: 1, up: true, mac: bundleEndMAC(spec.Owner).String()},
		bridge:    &attrs{name: spec.Owner.Bridge(), kind: "bridge", index: 5, mtu: 1500, up: true},
		filter: filterFacts{rules: rules, table: &table{chains: []chain{{
			name: chainName, kind: "filter", base: true, hook: unix.NF_NETDEV_INGRESS, priority: int32(*priority), devices: []string{spec.Owner.Veth()},
		}}}},
		inside: insideFacts{
			peersNS:   1,
			links:     []attrs{{name: "lo", alias: mark, index: 1}, {name: innerName, kind: "veth", index: 2, parent: 10, mtu: 1500, up: true, mac: mac}},
			addresses: []netip.Prefix{machinePrefix(spec)},
			routes:    []netlink.Route{{LinkIndex: 2, Dst: subnet, Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_KERNEL}},
		},
	}
}

// TestJudge tests faults that TestDamage cannot cause in the kernel.
func TestJudge(t *testing.T) {
	spec := newSpec(t, 44)
	veth, table := spec.Owner.Veth(), tableName(spec.Owner)
	tests := []struct {
		name   string
		change func(f *facts)
		want   string
	}{
		{"sound", func(*facts) {}, ""},
		{"XDP program", func(f *facts) { f.bundleEnd.xdp = true }, "open: link " + veth + " has an XDP program, which comes before the filter"},
		{"chain before ours", func(f *facts) { f.filter.earlier = []string{"t c"} }, `open: chain "t c" sees packets before filter ` + table},
		{"peer in a third namespace", func(f *facts) { f.bundleEnd.peersNS = 2 }, "open: bundle0 in the namespace does not lead to link " + veth},
		{"tunnel of the kernel's, down", func(f *facts) { f.inside.links = append(f.inside.links, attrs{name: "sit0", kind: "sit", index: 3}) }, ""},
		{"tunnel of the kernel's, up", func(f *facts) {
			f.inside.links = append(f.inside.links, attrs{name: "sit0", kind: "sit", index: 3, up: true})
		}, `open: link "sit0" is in the namespace`},
		{"link that is called like a tunnel", func(f *facts) { f.inside.links = append(f.inside.links, attrs{name: "sit0", kind: "veth", index: 3}) }, `open: link "sit0" is in the namespace`},
		{"chain on another device", func(f *facts) { f.filter.table.chains[0].devices = []string{"eth0"} }, "open: filter " + table + " has a chain with other settings than the wall's"},
		{"chain on no device", func(f *facts) { f.filter.table.chains[0].devices = nil }, "open: filter " + table + " has a chain with other settings than the wall's"},
		{"chain on two devices", func(f *facts) { f.filter.table.chains[0].devices = []string{veth, "eth0"} }, "open: filter " + table + " has a chain with other settings than the wall's"},
		{"chain behind others", func(f *facts) { f.filter.table.chains[0].priority++ }, "open: filter " + table + " has a chain with other settings than the wall's"},
		{"bridge gone", func(f *facts) { f.bridge, f.bundleEnd.master = nil, 0 }, "closed: bridge " + spec.Owner.Bridge() + " is missing\nclosed: link " + veth + " is not in a bridge"},
		{"no link and no filter", func(f *facts) {
			f.bundleEnd, f.filter, f.inside.links, f.inside.routes, f.inside.addresses = nil, filterFacts{}, f.inside.links[:1], nil, nil
		}, "closed: link " + veth + " is missing\nclosed: filter " + table + " is missing\nclosed: bundle0 is missing in the namespace"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want, f := soundFacts(t, spec)
			tt.change(&f)
			if got := describe(judge(spec, want, f)); got != tt.want {
				t.Errorf("faults:\ngot\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// TestUnreadable: for a wall that could not be read, only the error is set.
func TestUnreadable(t *testing.T) {
	spec := newSpec(t, 44)
	for name, change := range map[string]func(f *facts){
		"namespace": func(f *facts) { f.inside = insideFacts{err: os.ErrPermission} },
		"filter":    func(f *facts) { f.filter.err = errInterrupted },
	} {
		want, f := soundFacts(t, spec)
		change(&f)
		if got := wallOf(spec, want, f); got.Err == nil || len(got.Faults) > 0 || got.NetNS != (host.NetNS{}) {
			t.Errorf("%s: got %+v, want only an error", name, got)
		}
	}
}

// TestDigestIdentifiesAFilter: the digest does not depend on counts.
func TestDigestIdentifiesAFilter(t *testing.T) {
	_, f := soundFacts(t, newSpec(t, 44))
	first := f.filter.digest()
	f.filter.rules[0].packets += 7
	if got := f.filter.digest(); got != first || got == "" {
		t.Errorf("after packets: got %q, want %q", got, first)
	}
	f.filter.rules[0].normal = append([]byte{1}, f.filter.rules[0].normal...)
	if got := f.filter.digest(); got == first {
		t.Error("with another rule: got the same digest, want another")
	}
}

// TestEveryByteOfARuleCounts changes each byte of the filter, as it would be read
// back, and checks that the difference is found.
func TestEveryByteOfARuleCounts(t *testing.T) {
	spec := newSpec(t, 44)
	want, f := soundFacts(t, spec)
	if !want.equal(f.filter.rules) {
		t.Fatal("got unequal rules, want equal ones")
	}
	for i, r := range f.filter.rules {
		for k := range r.normal {
			r.normal = append([]byte(nil), want.forms[i]...)
			r.normal[k] ^= 1
			f.filter.rules[i] = r
			if want.equal(f.filter.rules) {
				t.Errorf("rule %d with byte %d changed: got equal, want a difference", i, k)
			}
		}
		r.normal = want.forms[i]
		f.filter.rules[i] = r
	}
	other := spec
	for name, change := range map[string]func(){
		"another bundle":  func() { other.BundleIP = netip.MustParseAddr("192.168.44.4") },
		"another machine": func() { other.MachineIP = netip.MustParseAddr("192.168.44.5") },
		"another port":    func() { other.Ports = []int32{8889} },
		"another owner":   func() { other.Owner.UID = "ffffffff-0000-4000-8000-000000000000" },
		"no ports":        func() { other.Ports = nil },
	} {
		other = spec
		change()
		e, err := expect(other)
		must(t, err)
		if e.equal(f.filter.rules) {
			t.Errorf("%s: got equal rules, want others", name)
		}
	}
}

func TestMark(t *testing.T) {
	o := newSpec(t, 44).Owner
	got, ok := parseMark(markOf(o))
	if want := (host.WallOwner{ID: o.ID(), UID: o.UID, Cluster: o.Cluster}); !ok || got != want {
		t.Errorf("mark: got %v, want %v", got, want)
	}
	for _, mark := range []string{"", "x", "botbottle.dev", "botbottle.dev id=a", "other " + markOf(o)} {
		if got, ok := parseMark(mark); ok {
			t.Errorf("mark %q: got %v, want none", mark, got)
		}
	}
}

// FuzzReadRule parses data that no kernel should send.
func FuzzReadRule(f *testing.F) {
	f.Add([]byte{4, 0, 1, 0})
	f.Add([]byte{8, 0, 1, 0, 12, 0, 1, 0, 'c', 'm', 'p', 0})
	f.Fuzz(func(_ *testing.T, b []byte) {
		appendRule(nil, b)
		parseChain(b)
		parseElement(b)
		commentIn(b)
	})
}
