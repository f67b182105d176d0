// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

// marker is in every frame of a test, so that the frame can be recognized.
var marker = []byte("bottle-test-frame")

func addrPort(a netip.Addr, port int32) netip.AddrPort { return netip.AddrPortFrom(a, uint16(port)) }

// ethernet returns a frame. tags are the VLAN headers between the addresses and the
// type.
func ethernet(dst, src net.HardwareAddr, kind uint16, body []byte, tags ...byte) []byte {
	return slices.Concat(dst, src, tags, binary.BigEndian.AppendUint16(nil, kind), body, marker)
}

// ipv4 is an IPv4 packet. A test may change it before bytes computes the checksum.
type ipv4 struct {
	src, dst netip.Addr
	proto    byte
	fragment uint16 // flags and offset
	options  []byte
	body     []byte
}

func (p ipv4) bytes() []byte {
	size := 20 + len(p.options) + len(p.body) + len(marker)
	b := []byte{0x40 | byte(5+len(p.options)/4), 0, 0, 0, 0, 1, 0, 0, 64, p.proto, 0, 0}
	binary.BigEndian.PutUint16(b[2:], uint16(size))
	binary.BigEndian.PutUint16(b[6:], p.fragment)
	b = slices.Concat(b, p.src.AsSlice(), p.dst.AsSlice(), p.options)
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(b, p.body...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// syn returns a TCP header that requests a connection.
func syn(port uint16) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, 40000)
	binary.BigEndian.PutUint16(b[2:], port)
	b[12], b[13] = 5<<4, 0x02
	return b
}

func udp(port uint16) []byte {
	b := make([]byte, 8)
	binary.BigEndian.PutUint16(b, 40000)
	binary.BigEndian.PutUint16(b[2:], port)
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(marker)))
	return b
}

// ipv6 returns a packet from a link-local address.
func ipv6(dst netip.Addr, proto byte, body []byte) []byte {
	b := []byte{0x60, 0, 0, 0, 0, 0, proto, 64}
	binary.BigEndian.PutUint16(b[4:], uint16(len(body)+len(marker)))
	return slices.Concat(b, netip.MustParseAddr("fe80::3").AsSlice(), dst.AsSlice(), body)
}

// arp returns an ARP packet.
func arp(op byte, sender net.HardwareAddr, from, target netip.Addr) []byte {
	return slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, op}, sender, from.AsSlice(), make([]byte, 6), target.AsSlice())
}

// frameTo returns a frame to a destination, from the machine's own addresses to the
// bundle's MAC address.
func frameTo(spec host.WallSpec, d host.Drop) []byte {
	return frameBy(spec, host.BundleMAC(spec.BundleIP), d)
}

// frameBy returns a frame to a destination, with the MAC address dst.
func frameBy(spec host.WallSpec, dst net.HardwareAddr, d host.Drop) []byte {
	mac := machineMAC(spec.Owner)
	bodies := map[string][]byte{"tcp": syn(d.Port), "udp": udp(d.Port), "icmp": {8, 0, 0, 0, 0, 1, 0, 1}, "icmpv6": {128, 0, 0, 0, 0, 1, 0, 1}}
	protos := map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "icmp": unix.IPPROTO_ICMP, "icmpv6": unix.IPPROTO_ICMPV6}
	switch {
	case d.Proto == "arp":
		return ethernet(dst, mac, unix.ETH_P_ARP, arp(1, mac, spec.MachineIP, d.Addr))
	case d.Addr.Is4():
		return ethernet(dst, mac, unix.ETH_P_IP, ipv4{src: spec.MachineIP, dst: d.Addr, proto: protos[d.Proto], body: bodies[d.Proto]}.bytes())
	}
	return ethernet(dst, mac, unix.ETH_P_IPV6, ipv6(d.Addr, protos[d.Proto], bodies[d.Proto]))
}

// sender sends frames on the link inside, as root in the namespace can.
type sender struct{ fd int }

func newSender(t testing.TB, ns *os.File) *sender {
	t.Helper()
	s := &sender{}
	must(t, in(t, ns, func() (err error) {
		s.fd, err = packetSocket(innerName)
		return err
	}))
	t.Cleanup(func() { unix.Close(s.fd) })
	return s
}

func (s *sender) send(t testing.TB, frame []byte) {
	t.Helper()
	if _, err := unix.Write(s.fd, frame); err != nil {
		t.Fatalf("send: %v", err)
	}
}

// packetSocket opens a packet socket on a link in the thread's namespace.
func packetSocket(name string) (int, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
	if err != nil {
		return -1, err
	}
	return fd, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: l.Attrs().Index})
}

func htons(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}

// capture receives what arrives at one link.
type capture struct {
	where string
	fd    int
}

// first returns the text that arrives first, or nil if none arrives soon.
func (c *capture) first(t testing.TB, texts ...[]byte) []byte {
	t.Helper()
	return c.firstWithin(t, soon, texts...)
}

func (c *capture) firstWithin(t testing.TB, limit time.Duration, texts ...[]byte) []byte {
	t.Helper()
	deadline := time.Now().Add(limit)
	b := make([]byte, 4096)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return nil
		}
		tv := unix.NsecToTimeval(left.Nanoseconds())
		must(t, unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
		n, _, err := unix.Recvfrom(c.fd, b, 0)
		if err != nil {
			continue
		}
		for _, text := range texts {
			if bytes.Contains(b[:n], text) {
				return text
			}
		}
	}
}

// captures returns captures at the bundle, and at the node's bridge. The bridge
// also receives what passes between its ports.
func (w *world) captures(t testing.TB, spec host.WallSpec) []*capture {
	t.Helper()
	bundle, node := &capture{where: "the bundle"}, &capture{where: "the node"}
	must(t, in(t, w.bundles[spec.Owner.Bridge()], func() (err error) {
		bundle.fd, err = packetSocket("eth0")
		return err
	}))
	var err error
	node.fd, err = packetSocket(spec.Owner.Bridge())
	must(t, err)
	bridge, err := netlink.LinkByName(spec.Owner.Bridge())
	must(t, err)
	must(t, unix.SetsockoptPacketMreq(node.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
		&unix.PacketMreq{Ifindex: int32(bridge.Attrs().Index), Type: unix.PACKET_MR_PROMISC}))
	t.Cleanup(func() { unix.Close(bundle.fd); unix.Close(node.fd) })
	return []*capture{bundle, node}
}
