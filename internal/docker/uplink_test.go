// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/ownthread"
	"botbottle.dev/bottle-operator/test/require"
)

// outsideBytes is the size of the outside server's answer: many times any MTU.
const outsideBytes = 300_000

// outside is the address of the outside server.
var outside = netip.MustParseAddr("203.0.113.1")

// TestUplinkMTU gives the node routes as the command ip does.
func TestUplinkMTU(t *testing.T) {
	require.Root(t)
	if _, err := exec.LookPath("ip"); err != nil {
		require.Unmet(t, "needs ip: install Debian's iproute2")
	}
	for name, tt := range map[string]struct {
		routes []string
		want   int
	}{
		"no default route":            {[]string{"198.51.100.0/24 dev small"}, 1500},
		"an ordinary uplink":          {[]string{"default dev large"}, 1500},
		"a small uplink":              {[]string{"default dev small"}, 1400},
		"the smallest of two":         {[]string{"default dev large", "default dev small metric 50"}, 1400},
		"an MTU of the route":         {[]string{"default dev large mtu 1300"}, 1300},
		"a VPN's table":               {[]string{"default dev large", "default dev small table 51820"}, 1400},
		"a VPN's two halves":          {[]string{"default dev large", "0.0.0.0/1 dev small", "128.0.0.0/1 dev small"}, 1400},
		"several hops":                {[]string{"default nexthop via 192.0.2.9 dev large nexthop via 198.18.0.9 dev small"}, 1400},
		"no route to anywhere":        {[]string{"unreachable default"}, 1500},
		"a small link to one network": {[]string{"default dev large", "10.0.0.0/8 dev small"}, 1500},
	} {
		t.Run(name, func(t *testing.T) {
			var got int
			err := ownthread.Run(func() error {
				if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
					return err
				}
				for _, argv := range [][]string{
					{"link", "add", "large", "mtu", "9000", "type", "bridge"}, {"link", "add", "small", "mtu", "1400", "type", "bridge"},
					{"addr", "add", "192.0.2.1/24", "dev", "large"}, {"addr", "add", "198.18.0.1/24", "dev", "small"},
					{"link", "set", "large", "up"}, {"link", "set", "small", "up"},
				} {
					run(t, "ip", argv...)
				}
				for _, route := range tt.routes {
					run(t, "sh", "-c", "ip route add "+route)
				}
				var err error
				got, err = uplinkMTU()
				return err
			})
			if err != nil || got != tt.want {
				t.Errorf("got %d, %v, want %d", got, err, tt.want)
			}
		})
	}
}

// run runs a program in the network namespace of the calling thread.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Errorf("%s %q: %v\n%s", name, args, err, out)
	}
}

// addUplink gives the node an uplink with this MTU, and a server behind it whose own
// link has an MTU of 1500. What is larger than the uplink's MTU is lost without a word,
// as it is behind many firewalls.
func addUplink(t *testing.T, mtu int) {
	t.Helper()
	server := addServer(t)
	uplink, err := netlink.LinkByName("up0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetMTU(uplink, mtu); err != nil {
		t.Fatal(err)
	}
	run(t, "ip", "addr", "add", "203.0.113.2/24", "dev", "up0")
	run(t, "ip", "link", "set", "up0", "up")
	run(t, "ip", "route", "add", "default", "via", outside.String())
	var l net.Listener
	server.do(t, func() { l, err = net.Listen("tcp", outside.String()+":80") })
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(bytes.Repeat([]byte("x"), outsideBytes))
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
}

// node is another computer: a network namespace.
type node struct{ ns *os.File }

// addServer makes the outside server's computer, whose interface leads to the interface
// up0 in this namespace.
func addServer(t *testing.T) *node {
	t.Helper()
	n := &node{}
	err := ownthread.Run(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			n.ns, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.ns.Close() })
	err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(n.ns.Fd())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0"}}) })
	n.do(t, func() {
		run(t, "ip", "addr", "add", outside.String()+"/24", "dev", "eth0")
		// The interface sends single frames, of which each has to fit.
		run(t, "ip", "link", "set", "eth0", "mtu", "1500", "gso_max_segs", "1", "up")
	})
	return n
}

// do runs f in the node's namespace.
func (n *node) do(t *testing.T, f func()) {
	t.Helper()
	inNamespace(t, n.ns, f)
}

func inNamespace(t *testing.T, ns *os.File, f func()) {
	t.Helper()
	err := ownthread.Run(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		f()
		return nil
	})
	runtime.KeepAlive(ns)
	if err != nil {
		t.Errorf("enter a network namespace: %v", err)
	}
}

// links calls each with the name and the MTU of every interface of a process.
func links(t *testing.T, pid int, each func(name string, mtu int)) {
	t.Helper()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	inNamespace(t, ns, func() {
		all, err := netlink.LinkList()
		if err != nil || len(all) < 2 {
			t.Errorf("interfaces of the bundle: got %v, %v, want two", all, err)
		}
		for _, l := range all {
			each(l.Attrs().Name, l.Attrs().MTU)
		}
	})
}
