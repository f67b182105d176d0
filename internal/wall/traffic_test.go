// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

// soon bounds the wait for something that must arrive.
const soon = 6 * time.Second

// attempt is a frame with which root in the namespace may try to get out.
type attempt struct {
	name  string
	frame []byte
	// drop is the expected record of it, without Packets.
	drop host.Drop
	// past means that, without the filter, the frame reaches the node but not the
	// bundle.
	past bool
}

// attempts returns the attempts of a machine behind the wall. bridge is the MAC
// address of its bridge.
func attempts(spec host.WallSpec, bridge net.HardwareAddr) []attempt {
	mac, bundle, other := machineMAC(spec.Owner), host.BundleMAC(spec.BundleIP), net.HardwareAddr{0x02, 1, 2, 3, 4, 5}
	stranger := net.HardwareAddr{0x02, 5, 4, 3, 2, 1} // an address that the bridge has not seen
	gateway, elsewhere := spec.Subnet.Addr().Next(), netip.MustParseAddr("203.0.113.9")
	toPort := ipv4{src: spec.MachineIP, dst: spec.BundleIP, proto: unix.IPPROTO_TCP, body: syn(8888)}
	ip := func(change func(p *ipv4)) []byte {
		p := toPort
		change(&p)
		return ethernet(bundle, mac, unix.ETH_P_IP, p.bytes())
	}
	to8888 := host.Drop{Proto: "tcp", Addr: spec.BundleIP, Port: 8888}
	noPort := host.Drop{Proto: "tcp", Addr: spec.BundleIP}
	arpDrop := host.Drop{Proto: "arp", Addr: spec.BundleIP}
	all := []attempt{
		{"first fragment", ip(func(p *ipv4) { p.fragment = 0x2000 }), to8888, false},
		{"later fragment", ip(func(p *ipv4) { p.fragment = 0x0003 }), noPort, false},
		{"IP options", ip(func(p *ipv4) { p.options = []byte{7, 4, 4, 0} }), to8888, false},
		{"another source address", ip(func(p *ipv4) { p.src = elsewhere }), to8888, false},
		{"the gateway's source address", ip(func(p *ipv4) { p.src = gateway }), to8888, false},
		{"another source MAC", ethernet(bundle, other, unix.ETH_P_IP, toPort.bytes()), to8888, false},
		{"VLAN tag", ethernet(bundle, mac, unix.ETH_P_IP, toPort.bytes(), 0x81, 0, 0, 5), to8888, false},
		{"priority tag", ethernet(bundle, mac, unix.ETH_P_IP, toPort.bytes(), 0x81, 0, 0xe0, 0), to8888, false},
		{"two VLAN tags", ethernet(bundle, mac, unix.ETH_P_IP, toPort.bytes(), 0x88, 0xa8, 0, 5, 0x81, 0, 0, 6), host.Drop{Proto: "0x8100"}, false},
		{"another protocol of IP", ip(func(p *ipv4) { p.proto = unix.IPPROTO_SCTP }), host.Drop{Proto: "132", Addr: spec.BundleIP}, false},
		{"broadcast of IP", ip(func(p *ipv4) { p.dst = netip.MustParseAddr("255.255.255.255") }), host.Drop{Proto: "tcp", Addr: netip.MustParseAddr("255.255.255.255"), Port: 8888}, false},
		{"another protocol of Ethernet", ethernet(broadcast, mac, 0x88b5, make([]byte, 46)), host.Drop{Proto: "0x88b5"}, false},
		{"ARP from another address", ethernet(broadcast, mac, unix.ETH_P_ARP, arp(1, mac, gateway, spec.BundleIP)), arpDrop, false},
		{"ARP for another MAC", ethernet(bundle, mac, unix.ETH_P_ARP, arp(2, other, spec.MachineIP, spec.BundleIP)), arpDrop, false},
		{"ARP of another kind", ethernet(bundle, mac, unix.ETH_P_ARP, arp(3, mac, spec.MachineIP, spec.BundleIP)), arpDrop, false},
		{"gratuitous ARP", ethernet(broadcast, mac, unix.ETH_P_ARP, arp(1, mac, spec.MachineIP, spec.MachineIP)), host.Drop{Proto: "arp", Addr: spec.MachineIP}, false},
		{"ARP reply to the broadcast address", ethernet(broadcast, mac, unix.ETH_P_ARP, arp(2, mac, spec.MachineIP, spec.BundleIP)), arpDrop, false},
		{"ARP to another station", ethernet(stranger, mac, unix.ETH_P_ARP, arp(1, mac, spec.MachineIP, spec.BundleIP)), arpDrop, false},
		{"ARP to the bridge", ethernet(bridge, mac, unix.ETH_P_ARP, arp(1, mac, spec.MachineIP, spec.BundleIP)), arpDrop, true},
		{"TCP to the broadcast address", ethernet(broadcast, mac, unix.ETH_P_IP, toPort.bytes()), to8888, false},
		{"TCP to a group", ethernet(net.HardwareAddr{1, 0, 0x5e, 0, 0, 1}, mac, unix.ETH_P_IP, toPort.bytes()), to8888, false},
		{"TCP to another station", ethernet(stranger, mac, unix.ETH_P_IP, toPort.bytes()), to8888, false},
		{"TCP for the bundle to the bridge", ethernet(bridge, mac, unix.ETH_P_IP, toPort.bytes()), to8888, true},
		{"TCP for the bundle to the bundle's end of the link", ethernet(bundleEndMAC(spec.Owner), mac, unix.ETH_P_IP, toPort.bytes()), to8888, true},
		{"TCP for elsewhere to the bridge", frameBy(spec, bridge, host.Drop{Proto: "tcp", Addr: elsewhere, Port: 443}), host.Drop{Proto: "tcp", Addr: elsewhere, Port: 443}, true},
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
		all = append(all, attempt{fmt.Sprintf("%s to %s port %d", d.Proto, d.Addr, d.Port), frameTo(spec, d), d, false})
	}
	return all
}

// TestNothingElseGetsOut sends frames that must not pass from inside, and listens at
// the bundle and at the node. Then it deletes the filter and sends the same frames
// again. Now they must arrive: otherwise the test could not fail.
func TestNothingElseGetsOut(t *testing.T) {
	w := newWorld(t)
	spec := newSpec(t, 44)
	w.addBundle(t, spec)
	root := newSender(t, wallNS(t, w.stand(t, spec)))
	captures := w.captures(t, spec)
	number := 0
	send := func(frame []byte) (text []byte) {
		number++
		text = fmt.Appendf(nil, "bottle-frame-%04d", number) // as long as the marker, because a packet is cut at the length in its header
		root.send(t, bytes.Replace(frame, marker, text, 1))
		return text
	}
	// A frame that may pass is sent after each one that may not. Once it arrives,
	// the other one would have arrived, too.
	passes := ethernet(host.BundleMAC(spec.BundleIP), machineMAC(spec.Owner), unix.ETH_P_IP, ipv4{src: spec.MachineIP, dst: spec.BundleIP, proto: unix.IPPROTO_TCP, fragment: 0x4000, body: syn(8888)}.bytes())
	all := attempts(spec, macOf(t, spec.Owner.Bridge()))
	var sent uint64
	for _, a := range all {
		must(t, w.walls.ForgetDrops(t.Context(), spec.Owner))
		sent++
		text, after := send(a.frame), send(passes)
		for _, capture := range captures {
			switch received := capture.first(t, text, after); {
			case received == nil:
				t.Errorf("TCP to the bundle's port: did not arrive at %s", capture.where)
			case bytes.Equal(received, text):
				t.Errorf("%s: arrived at %s, want it dropped", a.name, capture.where)
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
	run(t, "nft", "delete", "table", "ip", bridgesTable) // where br_netfilter is on, it drops some, too
	for _, a := range all {
		text := send(a.frame)
		for _, capture := range captures {
			if capture.where == "the bundle" && a.past {
				continue
			}
			if capture.first(t, text) == nil {
				t.Errorf("%s, without the filter: did not arrive at %s, so the test proves nothing", a.name, capture.where)
			}
		}
	}
}

// TestNothingReachesTheNodesStack: the node's IP stack receives what is sent to the
// bridge's MAC address, whatever its IP destination, tracks the connection and
// routes it. Such a frame must not get there, but TCP to the bundle must pass.
func TestNothingReachesTheNodesStack(t *testing.T) {
	w := newWorld(t)
	spec := newSpec(t, 47)
	w.addBundle(t, spec, 8888)
	ns := wallNS(t, w.stand(t, spec))
	root, bridge := newSender(t, ns), macOf(t, spec.Owner.Bridge())
	const each = 20
	send := func() (received uint64) {
		before := nodeReceived(t)
		for i := range each {
			for _, to := range []netip.Addr{spec.BundleIP, spec.Subnet.Addr().Next(), netip.MustParseAddr("203.0.113.9")} {
				p := ipv4{src: spec.MachineIP, dst: to, proto: unix.IPPROTO_TCP, body: slices.Concat(syn(8888), make([]byte, i))}
				root.send(t, ethernet(bridge, machineMAC(spec.Owner), unix.ETH_P_IP, p.bytes()))
			}
		}
		return nodeReceived(t) - before
	}
	if received := send(); received > 0 {
		t.Errorf("packets in the node's IP stack: got %d of %d, want 0", received, 3*each)
	}
	if got := w.inspect(t, spec); got.Dropped != 3*each || got.Accepted[8888] != 0 {
		t.Errorf("counts: got %d dropped and %v accepted, want %d and none", got.Dropped, got.Accepted, 3*each)
	}
	greet(t, w.inspect(t, spec), spec)
	run(t, "nft", "delete", "table", "netdev", tableName(spec.Owner))
	if received := send(); received < 3*each {
		t.Errorf("packets in the node's IP stack, without the filter: got %d, want %d: the test proves nothing", received, 3*each)
	}
}

// TestNeighbours: the ARP requests and replies that Linux sends for a neighbour
// pass.
func TestNeighbours(t *testing.T) {
	w := newWorld(t)
	spec := newSpec(t, 48)
	w.addBundle(t, spec)
	root, mac, bundle := newSender(t, wallNS(t, w.stand(t, spec))), machineMAC(spec.Owner), host.BundleMAC(spec.BundleIP)
	capture := w.captures(t, spec)[0]
	for name, frame := range map[string][]byte{
		"broadcast request":     ethernet(broadcast, mac, unix.ETH_P_ARP, arp(1, mac, spec.MachineIP, spec.BundleIP)),
		"request to the bundle": ethernet(bundle, mac, unix.ETH_P_ARP, arp(1, mac, spec.MachineIP, spec.BundleIP)),
		"reply to the bundle":   ethernet(bundle, mac, unix.ETH_P_ARP, arp(2, mac, spec.MachineIP, spec.BundleIP)),
	} {
		root.send(t, frame)
		if capture.first(t, marker) == nil {
			t.Errorf("%s: did not arrive at the bundle", name)
		}
	}
	if got := w.inspect(t, spec); got.Dropped > 0 {
		t.Errorf("dropped: got %d, want 0", got.Dropped)
	}
}

// nodeReceived returns how many packets the node's IP stack has received.
func nodeReceived(t *testing.T) uint64 {
	t.Helper()
	text, err := os.ReadFile("/proc/thread-self/net/snmp")
	must(t, err)
	var names []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if fields[0] != "Ip:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		n, err := strconv.ParseUint(fields[slices.Index(names, "InReceives")], 10, 64)
		must(t, err)
		return n
	}
	t.Fatal("got no line Ip in the node's counters, want one")
	return 0
}

func macOf(t *testing.T, link string) net.HardwareAddr {
	t.Helper()
	l, err := netlink.LinkByName(link)
	must(t, err)
	return l.Attrs().HardwareAddr
}

// TestOrdinaryTraffic uses ordinary sockets, which find the bundle by ARP.
func TestOrdinaryTraffic(t *testing.T) {
	w := newWorld(t)
	spec := newSpec(t, 45)
	w.addBundle(t, spec, 8888, 9099)
	wall := w.stand(t, spec)
	ns := wallNS(t, wall)
	if got, err := dial(t, ns, addrPort(spec.BundleIP, 8888), soon); got != "hello" {
		t.Errorf("the bundle's port: got %q, %v, want hello", got, err)
	}
	if got, err := dial(t, ns, addrPort(spec.BundleIP, 9099), 300*time.Millisecond); err == nil {
		t.Errorf("another port: got %q, want no answer", got)
	}
	run(t, "nft", "flush", "chain", "netdev", tableName(spec.Owner), chainName)
	if got, err := dial(t, ns, addrPort(spec.BundleIP, 8888), 300*time.Millisecond); err == nil {
		t.Errorf("with no rules left: got %q, want no answer", got)
	}
	run(t, "nft", "delete", "table", "netdev", tableName(spec.Owner))
	if got, err := dial(t, ns, addrPort(spec.BundleIP, 9099), soon); got != "hello" {
		t.Errorf("another port, without the filter: got %q, %v, want hello: the test proves nothing", got, err)
	}
}

// TestFloodOfDestinations fills a set. Later packets have no room in it, but are
// dropped and counted all the same.
func TestFloodOfDestinations(t *testing.T) {
	w := newWorld(t)
	spec := newSpec(t, 46)
	w.addBundle(t, spec, 8888)
	ns := wallNS(t, w.stand(t, spec))
	root, captures := newSender(t, ns), w.captures(t, spec)
	const flood = 3 * setSize
	for i := range flood {
		root.send(t, frameTo(spec, host.Drop{Proto: "tcp", Addr: spec.BundleIP, Port: uint16(10000 + i)}))
	}
	drops, err := w.walls.Drops(t.Context(), spec.Owner)
	must(t, err)
	if len(drops) < setSize/2 || len(drops) > setSize+setSize/10 {
		t.Errorf("drops: got %d, want about %d, the size of the set", len(drops), setSize)
	}
	if got := w.inspect(t, spec); got.Dropped != flood || len(got.Faults) > 0 {
		t.Errorf("after the flood: got %d dropped and faults %v, want %d and none", got.Dropped, got.Faults, flood)
	}
	after := []byte("bottle-frame-last")
	root.send(t, bytes.Replace(frameTo(spec, host.Drop{Proto: "tcp", Addr: spec.BundleIP, Port: 8888}), marker, after, 1))
	for _, capture := range captures {
		if received := capture.first(t, marker, after); !bytes.Equal(received, after) {
			t.Errorf("after the flood: received %q at %s, want only %q", received, capture.where, after)
		}
	}
	if got, err := dial(t, ns, addrPort(spec.BundleIP, 8888), soon); got != "hello" {
		t.Errorf("the bundle's port: got %q, %v, want hello", got, err)
	}
	must(t, w.walls.ForgetDrops(t.Context(), spec.Owner))
	if drops, err = w.walls.Drops(t.Context(), spec.Owner); err != nil || len(drops) > 0 {
		t.Errorf("drops after ForgetDrops: got %d, %v, want none", len(drops), err)
	}
}
