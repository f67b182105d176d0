// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

// soon is how long what must arrive may take.
const soon = 2 * time.Second

// attempt is a frame by which root in the namespace may try to get out.
type attempt struct {
	name  string
	frame []byte
	// drop is by what it is to be found; Packets is not looked at.
	drop host.Drop
}

func attempts(spec host.WallSpec) []attempt {
	mac, other := machineMAC(spec.Owner), net.HardwareAddr{0x02, 1, 2, 3, 4, 5}
	gateway, elsewhere := spec.Subnet.Addr().Next(), netip.MustParseAddr("203.0.113.9")
	toPort := ipv4{src: spec.MachineIP, dst: spec.BundleIP, proto: unix.IPPROTO_TCP, body: syn(8888)}
	ip := func(change func(p *ipv4)) []byte {
		p := toPort
		change(&p)
		return ethernet(mac, unix.ETH_P_IP, p.bytes())
	}
	bundle8888 := host.Drop{Proto: "tcp", Addr: spec.BundleIP, Port: 8888}
	noPort := host.Drop{Proto: "tcp", Addr: spec.BundleIP}
	all := []attempt{
		{"first fragment", ip(func(p *ipv4) { p.fragment = 0x2000 }), bundle8888},
		{"later fragment", ip(func(p *ipv4) { p.fragment = 0x0003 }), noPort},
		{"IP options", ip(func(p *ipv4) { p.options = []byte{7, 4, 4, 0} }), bundle8888},
		{"another source address", ip(func(p *ipv4) { p.src = elsewhere }), bundle8888},
		{"the gateway's source address", ip(func(p *ipv4) { p.src = gateway }), bundle8888},
		{"another source MAC", ethernet(other, unix.ETH_P_IP, toPort.bytes()), bundle8888},
		{"VLAN tag", ethernet(mac, unix.ETH_P_IP, toPort.bytes(), 0x81, 0, 0, 5), bundle8888},
		{"priority tag", ethernet(mac, unix.ETH_P_IP, toPort.bytes(), 0x81, 0, 0xe0, 0), bundle8888},
		{"two VLAN tags", ethernet(mac, unix.ETH_P_IP, toPort.bytes(), 0x88, 0xa8, 0, 5, 0x81, 0, 0, 6), host.Drop{Proto: "0x8100"}},
		{"another protocol of IP", ip(func(p *ipv4) { p.proto = unix.IPPROTO_SCTP }), host.Drop{Proto: "132", Addr: spec.BundleIP}},
		{"broadcast of IP", ip(func(p *ipv4) { p.dst = netip.MustParseAddr("255.255.255.255") }), host.Drop{Proto: "tcp", Addr: netip.MustParseAddr("255.255.255.255"), Port: 8888}},
		{"another protocol of Ethernet", ethernet(mac, 0x88b5, make([]byte, 46)), host.Drop{Proto: "0x88b5"}},
		{"ARP from another address", ethernet(mac, unix.ETH_P_ARP, arp(2, mac, gateway, spec.BundleIP)), host.Drop{Proto: "arp", Addr: spec.BundleIP}},
		{"ARP for another MAC", ethernet(mac, unix.ETH_P_ARP, arp(2, other, spec.MachineIP, spec.BundleIP)), host.Drop{Proto: "arp", Addr: spec.BundleIP}},
		{"ARP of another kind", ethernet(mac, unix.ETH_P_ARP, arp(3, mac, spec.MachineIP, spec.BundleIP)), host.Drop{Proto: "arp", Addr: spec.BundleIP}},
		{"gratuitous ARP", ethernet(mac, unix.ETH_P_ARP, arp(1, mac, spec.MachineIP, spec.MachineIP)), host.Drop{Proto: "arp", Addr: spec.MachineIP}},
	}
	for _, d := range []host.Drop{
		{Proto: "arp", Addr: gateway},
		{Proto: "tcp", Addr: spec.BundleIP, Port: 9099},
		{Proto: "udp", Addr: spec.BundleIP, Port: 8888},
		{Proto: "icmp", Addr: spec.BundleIP},
		{Proto: "tcp", Addr: gateway, Port: 8888},
		{Proto: "udp", Addr: gateway, Port: 53},
		{Proto: "icmp", Addr: gateway},
		{Proto: "tcp", Addr: elsewhere, Port: 443},
		{Proto: "icmpv6", Addr: netip.MustParseAddr("ff02::1")},
		{Proto: "tcp", Addr: netip.MustParseAddr("fe80::1"), Port: 8888},
		{Proto: "udp", Addr: netip.MustParseAddr("ff02::fb"), Port: 5353},
	} {
		all = append(all, attempt{fmt.Sprintf("%s to %s port %d", d.Proto, d.Addr, d.Port), frameTo(spec, d), d})
	}
	return all
}

// TestNothingElseGetsOut sends what must not pass from inside, and listens at
// the bundle and at the node. Then it takes the filter away and sends the same
// again, which now must arrive: else the test could not fail.
func TestNothingElseGetsOut(t *testing.T) {
	w := newWorld(t)
	spec := newSpec(t, 44)
	w.addBundle(t, spec)
	root := newSender(t, wallNS(t, w.stand(t, spec)))
	ears := w.captures(t, spec)
	number := 0
	send := func(frame []byte) (text []byte) {
		number++
		text = fmt.Appendf(nil, "bottle-frame-%04d", number) // as long as the marker: a packet is cut where it says that it ends
		root.send(t, bytes.Replace(frame, marker, text, 1))
		return text
	}
	// What may pass is sent after what may not: when the one has arrived, the
	// other would have.
	passes := ethernet(machineMAC(spec.Owner), unix.ETH_P_IP, ipv4{src: spec.MachineIP, dst: spec.BundleIP, proto: unix.IPPROTO_TCP, fragment: 0x4000, body: syn(8888)}.bytes())
	var sent uint64
	for _, a := range attempts(spec) {
		must(t, w.walls.ForgetDrops(t.Context(), spec.Owner))
		sent++
		text, after := send(a.frame), send(passes)
		for _, ear := range ears {
			switch heard := ear.first(t, text, after); {
			case heard == nil:
				t.Errorf("TCP to the bundle's port: did not arrive at %s", ear.where)
			case bytes.Equal(heard, text):
				t.Errorf("%s: arrived at %s, want it dropped", a.name, ear.where)
			}
		}
		drops, err := w.walls.Drops(t.Context(), spec.Owner)
		must(t, err)
		a.drop.Packets = 1
		if want := []host.Drop{a.drop}; !slices.Equal(drops, want) {
			t.Errorf("%s: got drops %v, want %v", a.name, drops, want)
		}
	}
	if got := w.inspect(t, spec); got.Dropped != sent || got.Accepted[8888] != sent {
		t.Errorf("counts: got %d dropped and %v accepted, want %d of each", got.Dropped, got.Accepted, sent)
	}
	run(t, "nft", "delete", "table", "netdev", tableName(spec.Owner))
	for _, a := range attempts(spec) {
		text := send(a.frame)
		for _, ear := range ears {
			if ear.first(t, text) == nil {
				t.Errorf("%s, without the filter: did not arrive at %s: it proves nothing", a.name, ear.where)
			}
		}
	}
}

// TestOrdinaryTraffic uses ordinary sockets, which ask for the bundle by ARP.
func TestOrdinaryTraffic(t *testing.T) {
	w := newWorld(t)
	spec := newSpec(t, 45)
	w.addBundle(t, spec, 8888, 9099)
	wall := w.stand(t, spec)
	ns := wallNS(t, wall)
	if said, err := dial(t, ns, addrPort(spec.BundleIP, 8888), soon); said != "hello" {
		t.Errorf("the bundle's port: got %q, %v, want hello", said, err)
	}
	if said, err := dial(t, ns, addrPort(spec.BundleIP, 9099), 300*time.Millisecond); err == nil {
		t.Errorf("another port: got %q, want no answer", said)
	}
	run(t, "nft", "flush", "chain", "netdev", tableName(spec.Owner), chainName)
	if said, err := dial(t, ns, addrPort(spec.BundleIP, 8888), 300*time.Millisecond); err == nil {
		t.Errorf("with no rules left: got %q, want no answer", said)
	}
	run(t, "nft", "delete", "table", "netdev", tableName(spec.Owner))
	if said, err := dial(t, ns, addrPort(spec.BundleIP, 9099), soon); said != "hello" {
		t.Errorf("another port, without the filter: got %q, %v, want hello: the test proves nothing", said, err)
	}
}

// TestFloodOfDestinations fills a set: what comes then has no room in it, and
// is dropped and counted all the same.
func TestFloodOfDestinations(t *testing.T) {
	w := newWorld(t)
	spec := newSpec(t, 46)
	w.addBundle(t, spec, 8888)
	ns := wallNS(t, w.stand(t, spec))
	root, ears := newSender(t, ns), w.captures(t, spec)
	const flood = 3 * setSize
	for i := range flood {
		root.send(t, frameTo(spec, host.Drop{Proto: "tcp", Addr: spec.BundleIP, Port: uint16(10000 + i)}))
	}
	drops, err := w.walls.Drops(t.Context(), spec.Owner)
	must(t, err)
	if len(drops) < setSize/2 || len(drops) > setSize+setSize/10 {
		t.Errorf("drops: got %d, want as many as there is room for, %d", len(drops), setSize)
	}
	if got := w.inspect(t, spec); got.Dropped != flood || len(got.Faults) > 0 {
		t.Errorf("after the flood: got %d dropped and faults %v, want %d and none", got.Dropped, got.Faults, flood)
	}
	after := []byte("bottle-frame-last")
	root.send(t, bytes.Replace(frameTo(spec, host.Drop{Proto: "tcp", Addr: spec.BundleIP, Port: 8888}), marker, after, 1))
	for _, ear := range ears {
		if heard := ear.first(t, marker, after); !bytes.Equal(heard, after) {
			t.Errorf("after the flood: heard %q at %s, want %q alone", heard, ear.where, after)
		}
	}
	if said, err := dial(t, ns, addrPort(spec.BundleIP, 8888), soon); said != "hello" {
		t.Errorf("the bundle's port: got %q, %v, want hello", said, err)
	}
	must(t, w.walls.ForgetDrops(t.Context(), spec.Owner))
	if drops, err = w.walls.Drops(t.Context(), spec.Owner); err != nil || len(drops) > 0 {
		t.Errorf("drops since forgotten: got %d, %v, want none", len(drops), err)
	}
}
