// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

// fromElsewhere are those who must not open a connection to a bundle in a Pod: another Pod
// and the node. The other Pod serves on port 80.
func (w *podWorld) fromElsewhere(t *testing.T, third int) (other *testPod, dials map[string]dialer) {
	t.Helper()
	must(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
	other = w.addPod(t, newSpec(t, third))
	ns := podNSFile(t, other)
	listenIn(t, ns, netip.MustParseAddrPort("0.0.0.0:80"))
	return other, map[string]dialer{
		"another Pod": func(a netip.AddrPort, limit time.Duration) (string, error) { return dial(t, ns, a, limit) },
		"the node":    func(a netip.AddrPort, limit time.Duration) (string, error) { return dialNode(t, a, limit) },
	}
}

// dialer connects, and returns what it received.
type dialer func(to netip.AddrPort, limit time.Duration) (string, error)

// TestPodsReachNoBundleInAPod: neither another Pod nor the node connects to a bundle, by any
// address of its Pod, whether its port is declared or not. The machine connects to the
// declared port, and the bundle dials out.
func TestPodsReachNoBundleInAPod(t *testing.T) {
	w := newPodWorld(t)
	spec, pod, wall := w.standing(t, 70)
	other, from := w.fromElsewhere(t, 71)
	podNS := podNSFile(t, pod)
	runIn(t, other.path, "ip", "route", "add", spec.BundleIP.String(), "via", "10.244.71.1")
	run(t, "ip", "route", "add", spec.BundleIP.String(), "via", pod.ip.String())
	attempts := map[string]netip.AddrPort{
		"the Pod's address": addrPort(pod.ip, 8888), "the bundle's address": addrPort(spec.BundleIP, 8888),
		"a port that is not declared": addrPort(pod.ip, 9099), "such a port of the bundle's address": addrPort(spec.BundleIP, 9099),
	}
	for who, dial := range from {
		for what, to := range attempts {
			if got, err := dial(to, 300*time.Millisecond); err == nil {
				t.Errorf("from %s to %s: got %q, want no answer", who, what, got)
			}
		}
	}
	greet(t, wall, spec)
	if got, err := dial(t, podNS, addrPort(other.ip, 80), soon); got != "hello" {
		t.Errorf("from the bundle to another Pod: got %q, %v, want hello", got, err)
	}
	if got, err := dial(t, podNS, addrPort(spec.BundleIP, 8888), soon); got != "hello" {
		t.Errorf("from the Pod itself to the bundle: got %q, %v, want hello", got, err)
	}
	runIn(t, pod.path, "nft", "delete", "table", "inet", podTableName)
	for who, dial := range from {
		for what, to := range attempts {
			if got, err := dial(to, soon); got != "hello" {
				t.Errorf("from %s to %s, without the table: got %q, %v, want hello: the test proves nothing", who, what, got, err)
			}
		}
	}
}

// TestPodPortIsNoLongerDeclared: a port that is removed from a bundle that keeps listening
// on it is closed to the machine, and stays closed to everybody else.
func TestPodPortIsNoLongerDeclared(t *testing.T) {
	w := newPodWorld(t)
	spec := newSpec(t, 77)
	spec.Ports = []int32{8888, 9099}
	w.addBundle(t, spec, 8888, 9099)
	wall := w.stand(t, spec)
	ns := wallNS(t, wall)
	if got, err := dial(t, ns, addrPort(spec.BundleIP, 9099), soon); got != "hello" {
		t.Errorf("declared, from the machine: got %q, %v, want hello", got, err)
	}
	spec.Ports = []int32{8888}
	wall = w.stand(t, spec)
	if got, err := dial(t, ns, addrPort(spec.BundleIP, 9099), 300*time.Millisecond); err == nil {
		t.Errorf("no longer declared, from the machine: got %q, want no answer", got)
	}
	w.wantBundleHidden(t, w.pod(spec.Owner))
	greet(t, wall, spec)
}

// TestPodGetsAnotherLink: a link that is added to a Pod that has its wall, as Multus does.
func TestPodGetsAnotherLink(t *testing.T) {
	w := newPodWorld(t)
	spec, pod, wall := w.standing(t, 72)
	run(t, "ip", "link", "add", "other", "type", "veth", "peer", "name", "net1", "netns", spec.Owner.ID())
	t.Cleanup(func() { _ = deleteLink("other") })
	runIn(t, wall.Path, "ip", "link", "set", "net1", "netns", pod.path)
	runIn(t, pod.path, "ip", "addr", "add", "10.9.9.2/24", "dev", "net1")
	runIn(t, pod.path, "ip", "addr", "add", "fd09::2/64", "dev", "net1", "nodad")
	runIn(t, pod.path, "ip", "link", "set", "net1", "up")
	run(t, "ip", "addr", "add", "10.9.9.1/24", "dev", "other")
	run(t, "ip", "addr", "add", "fd09::1/64", "dev", "other", "nodad")
	run(t, "ip", "link", "set", "other", "up")
	if got := describe(w.inspect(t, spec).Faults); got != "" {
		t.Errorf("faults: got %s, want none", got)
	}
	ns := podNSFile(t, pod)
	var targets []netip.AddrPort
	for _, port := range []int32{8888, 9099} {
		listenIn(t, ns, addrPort(netip.IPv6Unspecified(), port))
		targets = append(targets, addrPort(netip.MustParseAddr("10.9.9.2"), port), addrPort(netip.MustParseAddr("fd09::2"), port))
	}
	for _, to := range targets {
		if got, err := dialNode(t, to, 300*time.Millisecond); err == nil {
			t.Errorf("the bundle at %s: got %q, want no answer", to, got)
		}
	}
	runIn(t, pod.path, "nft", "delete", "table", "inet", podTableName)
	for _, to := range targets {
		if got, err := dialNode(t, to, soon); got != "hello" {
			t.Errorf("the bundle at %s, without the table: got %q, %v, want hello: the test proves nothing", to, got, err)
		}
	}
}

// TestPodDropsATinyFragment: the flags of a TCP header can be in another fragment than its
// ports, where no rule finds them.
func TestPodDropsATinyFragment(t *testing.T) {
	w := newPodWorld(t)
	_, pod, _ := w.standing(t, 78)
	answers := func(source uint16) bool {
		return answersFragments(t, netip.MustParseAddr("10.244.78.1"), addrPort(pod.ip, 9099), source)
	}
	if answers(40001) {
		t.Error("a connection request in two fragments: got an answer, want none")
	}
	runIn(t, pod.path, "nft", "delete", "table", "inet", podTableName)
	if !answers(40002) {
		t.Error("without the table: got no answer, want one: the test proves nothing")
	}
}

// answersFragments sends a connection request from the node in two fragments, of which the
// first one ends before the flags, and reports whether it is answered.
func answersFragments(t *testing.T, from netip.Addr, to netip.AddrPort, source uint16) bool {
	t.Helper()
	out, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	must(t, err)
	defer unix.Close(out)
	replies, err := net.ListenIP("ip4:tcp", &net.IPAddr{IP: from.AsSlice()})
	must(t, err)
	defer replies.Close()
	header := syn(to.Port())
	binary.BigEndian.PutUint16(header, source)
	pseudo := slices.Concat(from.AsSlice(), to.Addr().AsSlice(), []byte{0, unix.IPPROTO_TCP, 0, byte(len(header))})
	binary.BigEndian.PutUint16(header[16:], checksum(append(pseudo, header...)))
	for _, part := range []ipv4{{fragment: 0x2000, body: header[:8]}, {fragment: 1, body: header[8:]}} {
		part.src, part.dst, part.proto = from, to.Addr(), unix.IPPROTO_TCP
		packet := part.bytes() // the kernel sets its length and its checksum
		binary.BigEndian.PutUint16(packet[4:], source)
		must(t, unix.Sendto(out, packet, 0, &unix.SockaddrInet4{Addr: to.Addr().As4()}))
	}
	must(t, replies.SetReadDeadline(time.Now().Add(500*time.Millisecond)))
	for b := make([]byte, 64); ; {
		n, _, err := replies.ReadFromIP(b)
		if err != nil {
			return false
		}
		if n >= 14 && binary.BigEndian.Uint16(b) == to.Port() && binary.BigEndian.Uint16(b[2:]) == source && b[13] == 0x12 {
			return true
		}
	}
}

// TestBundleIsProtectedWithoutABridge: nobody else reaches a bundle that has no bridge yet, or
// none in a new sandbox.
func TestBundleIsProtectedWithoutABridge(t *testing.T) {
	for name, protect := range map[string]func(w *podWorld, spec host.WallSpec){
		"ProtectBundle": func(w *podWorld, spec host.WallSpec) {
			must(t, w.pods.ProtectBundle(t.Context(), spec.Owner))
		},
		"EnsureWall": func(w *podWorld, spec host.WallSpec) {
			_, err := w.pods.EnsureWall(t.Context(), spec)
			mustErr(t, "wall without a bridge", err, host.ErrNotFound)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newPodWorld(t)
			spec := newSpec(t, 76)
			mustErr(t, "without a Pod", w.pods.ProtectBundle(t.Context(), spec.Owner), host.ErrNotFound)
			pod := w.addPod(t, spec)
			w.listen(t, spec, 8888)
			if got, err := dialNode(t, addrPort(pod.ip, 8888), soon); got != "hello" {
				t.Errorf("before: got %q, %v, want hello: the test proves nothing", got, err)
			}
			protect(w, spec)
			w.wantBundleHidden(t, pod)
			w.addBridge(t, spec)
			wall := w.stand(t, spec)
			must(t, w.pods.ProtectBundle(t.Context(), spec.Owner))
			if got := describe(w.inspect(t, spec).Faults); got != "" {
				t.Errorf("protected behind its wall: got faults %s, want none", got)
			}
			greet(t, wall, spec)
			for _, damage := range []string{"flush table inet bottle-pod", "delete table inet bottle-pod", "add table inet bottle-pod { flags dormant; }"} {
				runIn(t, pod.path, "nft", damage)
				must(t, w.pods.ProtectBundle(t.Context(), spec.Owner))
				w.wantBundleHidden(t, pod)
			}
		})
	}
}
