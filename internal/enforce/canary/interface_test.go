// SPDX-License-Identifier: Apache-2.0

package canary

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/ownthread"
	"botbottle.dev/bottle-operator/test/netns"
)

// within runs f in the network namespace of the file.
func within(t *testing.T, ns string, f func() error) {
	t.Helper()
	err := ownthread.Run(func() error {
		file, err := os.Open(ns)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
	if err != nil {
		t.Fatal(err)
	}
}

func configure(t *testing.T, ns string, commands ...string) {
	t.Helper()
	for _, c := range commands {
		if out, err := exec.Command("nsenter", append([]string{"--net=" + ns}, strings.Fields(c)...)...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", c, err, out)
		}
	}
}

// testNode is a node with the networks of a Bottle and a Pod, each in its own
// namespace.
type testNode struct {
	ns, guest, pod string
	tcp, udp       uint16
	hits           <-chan host.CanaryHit
}

const bridge = "bb-1a2b3c4d"

func newTestNode(t *testing.T) *testNode {
	t.Helper()
	n := &testNode{ns: netns.New(t), guest: netns.New(t), pod: netns.New(t)}
	pid := func(ns string) string { return strings.Split(ns, "/")[2] }
	configure(t, n.ns,
		"ip link set lo up",
		"ip link add "+bridge+" type bridge", "ip addr add 192.168.44.1/24 dev "+bridge, "ip link set "+bridge+" up",
		"ip link add bv-1a2b3c4d type veth peer name eth0 netns "+pid(n.guest), "ip link set bv-1a2b3c4d master "+bridge+" up",
		"ip link add cni0 type veth peer name eth0 netns "+pid(n.pod), "ip addr add 10.9.9.1/24 dev cni0", "ip link set cni0 up",
	)
	within(t, n.ns, func() error { // so that packets with forged addresses are accepted
		return errors.Join(os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("0"), 0), os.WriteFile("/proc/sys/net/ipv4/conf/cni0/rp_filter", []byte("0"), 0))
	})
	configure(t, n.guest, "ip addr add 192.168.44.3/24 dev eth0", "ip link set eth0 up", "ip route add default via 192.168.44.1")
	configure(t, n.pod, "ip addr add 10.9.9.2/24 dev eth0", "ip link set eth0 up", "ip route add default via 10.9.9.1")
	hits := make(chan host.CanaryHit, 1000)
	n.hits = hits
	var c *Canaries
	within(t, n.ns, func() (err error) {
		c, err = New(Options{OnHit: func(hit host.CanaryHit) { hits <- hit }})
		return err
	})
	n.tcp, n.udp = c.Ports()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Start(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return n
}

func (n *testNode) dial(t *testing.T, ns, network, addr string, port uint16) {
	t.Helper()
	within(t, ns, func() error {
		conn, err := net.DialTimeout(network, netip.AddrPortFrom(netip.MustParseAddr(addr), port).String(), enough)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte(nonce + "\n"))
		return err
	})
}

// forge sends a datagram with a forged source address from the namespace.
func (n *testNode) forge(t *testing.T, ns, source, to string) {
	t.Helper()
	src, dst := netip.MustParseAddr(source).As4(), netip.MustParseAddr(to).As4()
	payload := []byte("x")
	packet := make([]byte, 28, 28+len(payload))
	packet[0], packet[8], packet[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(packet[2:], uint16(28+len(payload)))
	copy(packet[12:], src[:])
	copy(packet[16:], dst[:])
	binary.BigEndian.PutUint16(packet[20:], 5353)
	binary.BigEndian.PutUint16(packet[22:], n.udp)
	binary.BigEndian.PutUint16(packet[24:], uint16(8+len(payload)))
	packet = append(packet, payload...)
	within(t, ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: dst})
	})
}

// TestTheInterfaceIsReported: the kernel reports on which interface a hit was
// received, whatever source address it carries.
func TestTheInterfaceIsReported(t *testing.T) {
	n := newTestNode(t)
	tests := []struct {
		name           string
		hit            func()
		proto, remote  string
		wantsInterface string
	}{
		{"TCP from the guest to its gateway", func() { n.dial(t, n.guest, "tcp", "192.168.44.1", n.tcp) }, "tcp", "192.168.44.3", bridge},
		{"TCP from the guest to another address", func() { n.dial(t, n.guest, "tcp", "10.9.9.1", n.tcp) }, "tcp", "192.168.44.3", bridge},
		{"TCP from the node to the gateway", func() { n.dial(t, n.ns, "tcp", "192.168.44.1", n.tcp) }, "tcp", "192.168.44.1", bridge},
		{"UDP from the node to the gateway", func() { n.dial(t, n.ns, "udp", "192.168.44.1", n.udp) }, "udp", "192.168.44.1", bridge},
		{"UDP from the guest", func() { n.dial(t, n.guest, "udp", "10.9.9.1", n.udp) }, "udp", "192.168.44.3", bridge},
		{"TCP from a Pod", func() { n.dial(t, n.pod, "tcp", "192.168.44.1", n.tcp) }, "tcp", "10.9.9.2", "cni0"},
		{"UDP from a Pod", func() { n.dial(t, n.pod, "udp", "192.168.44.1", n.udp) }, "udp", "10.9.9.2", "cni0"},
		{"a Pod that forges the guest's address", func() { n.forge(t, n.pod, "192.168.44.3", "10.9.9.1") }, "udp", "192.168.44.3", "cni0"},
		{"a Pod that forges it towards the gateway", func() { n.forge(t, n.pod, "192.168.44.3", "192.168.44.1") }, "udp", "192.168.44.3", "cni0"},
		{"the guest that forges a Pod's address", func() { n.forge(t, n.guest, "10.9.9.2", "192.168.44.1") }, "udp", "10.9.9.2", bridge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.hit()
			got := next(t, n.hits)
			if got.Proto != tt.proto || got.Remote.Addr().String() != tt.remote || got.Interface != tt.wantsInterface {
				t.Errorf("got %s from %s on %q, want %s from %s on %q", got.Proto, got.Remote, got.Interface, tt.proto, tt.remote, tt.wantsInterface)
			}
		})
	}
}

// A packet from the node to a gateway looks as if it came from the Bottle's
// network. Only its source address shows that it did not, and no guest can use
// that address.
func TestGuestsCannotUseTheNodesAddresses(t *testing.T) {
	n := newTestNode(t)
	n.forge(t, n.guest, "192.168.44.1", "192.168.44.1")
	n.forge(t, n.guest, "10.9.9.1", "192.168.44.1")
	n.dial(t, n.guest, "udp", "192.168.44.1", n.udp)
	if got := next(t, n.hits); got.Remote.Addr().String() != "192.168.44.3" {
		t.Errorf("got a hit from %s, want none from one of the node's own addresses", got.Remote)
	}
	within(t, n.ns, func() error {
		for address, want := range map[string]bool{"192.168.44.1": true, "::ffff:192.168.44.1": true, "10.9.9.1": true, "127.0.0.9": true, "192.168.44.3": false, "10.9.9.2": false} {
			if got, err := (&Canaries{}).IsOwn(netip.MustParseAddr(address)); err != nil || got != want {
				t.Errorf("own address %s: got %v, %v, want %v", address, got, err, want)
			}
		}
		return nil
	})
}
