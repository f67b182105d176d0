// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"bytes"
	"fmt"
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

// dialNode connects from the node.
func dialNode(t testing.TB, address netip.AddrPort, limit time.Duration) (string, error) {
	t.Helper()
	ns, err := os.Open("/proc/self/ns/net")
	must(t, err)
	defer ns.Close()
	return dial(t, ns, address, limit)
}

// podNSFile opens a Pod's network namespace until the test ends.
func podNSFile(t testing.TB, pod *testPod) *os.File {
	t.Helper()
	ns, err := os.Open(pod.path)
	must(t, err)
	t.Cleanup(func() { ns.Close() })
	return ns
}

// TestMachineReachesOnlyItsBundleInAPod uses ordinary sockets with a default route by the
// bundle, as root in the namespace can.
func TestMachineReachesOnlyItsBundleInAPod(t *testing.T) {
	w := newPodWorld(t)
	spec, pod, wall := w.standing(t, 73)
	ns := wallNS(t, wall)
	runIn(t, wall.Path, "ip", "route", "add", "default", "via", spec.BundleIP.String())
	node, err := net.Listen("tcp4", "10.244.73.1:8888")
	must(t, err)
	t.Cleanup(func() { node.Close() })
	others := map[string]netip.AddrPort{
		"another port of the bundle": addrPort(spec.BundleIP, 9099), "the Pod's address": addrPort(pod.ip, 8888),
		"another port of the Pod": addrPort(pod.ip, 9099), "the node": netip.MustParseAddrPort("10.244.73.1:8888"),
	}
	try := func(limit time.Duration) (answered []string) {
		for what, to := range others {
			if c, err := dialOnly(t, ns, to, limit); err == nil {
				c.Close()
				answered = append(answered, what)
			}
		}
		return answered
	}
	if got := try(200 * time.Millisecond); len(got) > 0 {
		t.Errorf("answered: got %v, want none", got)
	}
	greet(t, wall, spec)
	// Without the filter, the Pod answers; and it forwards once that is on and its table is
	// gone.
	runIn(t, pod.path, "nft", "delete", "table", "netdev", tableName(spec.Owner))
	run(t, "ip", "route", "add", spec.MachineIP.String(), "via", pod.ip.String())
	forward := func(on string) { runIn(t, pod.path, "sh", "-c", "echo "+on+" > "+forwarding(spec.Owner.Bridge())) }
	forward("1")
	if got := try(500 * time.Millisecond); slices.Contains(got, "the node") {
		t.Errorf("answered without the filter: got %v, want not the node: the table has a chain for it", got)
	}
	forward("0")
	runIn(t, pod.path, "nft", "delete", "table", "inet", podTableName)
	if got := try(soon); len(got) != 3 {
		t.Errorf("answered without the filter: got %v, want everything but the node: the test proves nothing, or forwarding is on", got)
	}
	forward("1")
	if got := try(soon); len(got) != 4 {
		t.Errorf("answered without the filter and with forwarding: got %v, want all: the test proves nothing", got)
	}
}

// TestNobodyReachesTheMachineThroughItsPod: a Pod forwards what it gets from others.
func TestNobodyReachesTheMachineThroughItsPod(t *testing.T) {
	w := newPodWorld(t)
	spec, pod, wall := w.standing(t, 75)
	greet(t, wall, spec) // so that the Pod knows the machine's MAC address
	at := &capture{where: "the machine"}
	must(t, in(t, wallNS(t, wall), func() (err error) {
		at.fd, err = packetSocket(innerName)
		return err
	}))
	t.Cleanup(func() { unix.Close(at.fd) })
	run(t, "ip", "route", "add", spec.MachineIP.String(), "via", pod.ip.String())
	c, err := net.Dial("udp4", addrPort(spec.MachineIP, 53).String())
	must(t, err)
	t.Cleanup(func() { c.Close() })
	reaches := func(text string, limit time.Duration) bool {
		for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
			_, err := c.Write([]byte(text))
			must(t, err)
			if received := at.firstWithin(t, 100*time.Millisecond, []byte(text)); received != nil {
				return true
			}
		}
		return false
	}
	if reaches("bottle-from-outside-1", 500*time.Millisecond) {
		t.Error("a packet from the node reached the machine, want it dropped")
	}
	runIn(t, pod.path, "nft", "delete", "table", "inet", podTableName)
	if !reaches("bottle-from-outside-2", soon) {
		t.Error("without the table, no packet from the node reached the machine: the test proves nothing")
	}
}

func dialOnly(t testing.TB, ns *os.File, to netip.AddrPort, limit time.Duration) (c net.Conn, err error) {
	err = in(t, ns, func() error {
		c, err = net.DialTimeout("tcp4", to.String(), limit)
		return err
	})
	return c, err
}

// TestNothingElseGetsIntoThePod sends frames that must not pass from inside, and listens at
// the Pod's bridge. Then it deletes the filter and sends them again. Now they must arrive:
// otherwise the test could not fail.
func TestNothingElseGetsIntoThePod(t *testing.T) {
	w := newPodWorld(t)
	spec, pod, wall := w.standing(t, 74)
	root, at := newSender(t, wallNS(t, wall)), &capture{where: "the Pod"}
	must(t, in(t, podNSFile(t, pod), func() (err error) {
		if at.fd, err = packetSocket(spec.Owner.Bridge()); err != nil {
			return err
		}
		bridge, err := netlink.LinkByName(spec.Owner.Bridge())
		if err != nil {
			return err
		}
		return unix.SetsockoptPacketMreq(at.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
			&unix.PacketMreq{Ifindex: int32(bridge.Attrs().Index), Type: unix.PACKET_MR_PROMISC})
	}))
	t.Cleanup(func() { unix.Close(at.fd) })
	number := 0
	send := func(frame []byte) (text []byte) {
		number++
		text = fmt.Appendf(nil, "bottle-frame-%04d", number)
		root.send(t, bytes.Replace(frame, marker, text, 1))
		return text
	}
	passes := ethernet(host.BundleMAC(spec.BundleIP), machineMAC(spec.Owner), unix.ETH_P_IP, ipv4{src: spec.MachineIP, dst: spec.BundleIP, proto: unix.IPPROTO_TCP, fragment: 0x4000, body: syn(8888)}.bytes())
	var all []attempt
	for _, a := range attempts(spec, host.BundleMAC(spec.BundleIP)) {
		// In a Pod, the bridge is the bundle.
		if a.name != "ARP to the bridge" && a.name != "TCP for the bundle to the bridge" {
			all = append(all, a)
		}
	}
	for _, a := range all {
		text, after := send(a.frame), send(passes)
		if received := at.first(t, text, after); !bytes.Equal(received, after) {
			t.Errorf("%s: received %q, want only what may pass", a.name, received)
		}
	}
	if got := w.inspect(t, spec); got.Dropped != uint64(len(all)) {
		t.Errorf("dropped: got %d, want %d", got.Dropped, len(all))
	}
	runIn(t, pod.path, "nft", "delete", "table", "netdev", tableName(spec.Owner))
	for _, a := range all {
		if text := send(a.frame); at.first(t, text) == nil {
			t.Errorf("%s, without the filter: did not arrive, so the test proves nothing", a.name)
		}
	}
}
