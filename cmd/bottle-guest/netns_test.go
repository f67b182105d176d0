// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/enforce/canary"
	"botbottle.dev/bottle-operator/internal/enforce/probe"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/require"
)

var (
	bundleIP = netip.MustParseAddr("192.168.44.2")
	gateway  = netip.MustParseAddr("192.168.44.1")
	nodeIP   = netip.MustParseAddr("10.77.0.11")
	publicIP = netip.MustParseAddr("203.0.113.10")
)

func site() probe.Site {
	return probe.Site{
		Nonce: nonce, BundleIP: bundleIP, Ports: []int32{8888}, Other: []int32{9099}, Gateway: gateway,
		Node: []netip.Addr{nodeIP}, Public: []netip.AddrPort{netip.AddrPortFrom(publicIP, 443)},
		CanaryTCP: 4711, CanaryUDP: 4712, Floor: time.Second, Ceiling: 2 * time.Second,
	}
}

func sitePlan(t *testing.T) probe.Plan {
	t.Helper()
	p, err := site().Plan()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// inNetNS moves the test to a network namespace without routes, in which these
// addresses are local. The thread ends with the test.
func inNetNS(t *testing.T, own ...netip.Addr) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	for _, a := range own {
		addr, err := netlink.ParseAddr(netip.PrefixFrom(a, a.BitLen()).String())
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.AddrAdd(lo, addr); err != nil {
			t.Fatal(err)
		}
	}
}

// listenOn starts a TCP server that answers, in the test's namespace.
func listenOn(t *testing.T, addr netip.Addr, port uint16) {
	t.Helper()
	l, err := net.Listen("tcp", netip.AddrPortFrom(addr, port).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = conn.Read(make([]byte, 1))
				_, _ = conn.Write([]byte("x"))
			}()
		}
	}()
}

// TestWholeProof runs the real prober on a whole plan, with real canaries on the
// node addresses that can be reached, and judges its report.
func TestWholeProof(t *testing.T) {
	require.Root(t)
	tests := map[string]struct {
		own  []netip.Addr // the addresses that can be reached
		want string       // the target that is reached; "" for a proof
		// canary means that a canary is reached, which sees the proof's nonce.
		canary bool
	}{
		"only the bundle":      {[]netip.Addr{bundleIP}, "", false},
		"and the gateway":      {[]netip.Addr{bundleIP, gateway}, "tcp to gateway 192.168.44.1:", true},
		"and the node":         {[]netip.Addr{bundleIP, nodeIP}, "udp to node address 10.77.0.11:", true},
		"and a public address": {[]netip.Addr{bundleIP, publicIP}, "tcp to public address 203.0.113.10:443", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inNetNS(t, test.own...)
			path := install(t)
			listenOn(t, bundleIP, 8888)
			if test.own[len(test.own)-1] == publicIP {
				listenOn(t, publicIP, 443)
			}
			var mu sync.Mutex
			hits := map[string]bool{} // nonces
			e := goodEvidence()
			s := site()
			s.CanaryTCP, s.CanaryUDP = runCanaries(t, func(hit host.CanaryHit) {
				mu.Lock()
				defer mu.Unlock()
				// The guest's own loopback leads to the canaries, because there is only one
				// namespace here.
				if !hit.Local.Addr().IsLoopback() {
					hits[hit.Nonce] = true
				}
			})
			plan, err := s.Plan()
			if err != nil {
				t.Fatal(err)
			}
			r := report(t, exec.Command(path, "probe"), plan)
			mu.Lock()
			defer mu.Unlock()
			e.Plan, e.Report = plan, &r
			v := probe.Judge(e)
			switch {
			case test.want == "" && v.Result != probe.Proven:
				t.Errorf("got %+v, want proven", v)
			case test.want != "" && !slices.ContainsFunc(v.Reached, func(r probe.Target) bool { return strings.HasPrefix(r.String(), test.want) }):
				t.Errorf("got %+v, want %q reached", v, test.want)
			}
			if hits[plan.Nonce] != test.canary {
				t.Errorf("the canaries saw the nonces %v, want the proof's own: %v", hits, test.canary)
			}
		})
	}
}

// goodEvidence returns what walls would have seen.
func goodEvidence() probe.Evidence {
	return probe.Evidence{
		Accepted: map[int32]uint64{8888: 4}, Policy: probe.PolicyDiffers,
		Drops: []probe.Drop{{Proto: "arp", Addr: gateway, Packets: 1}, {Proto: "tcp", Addr: bundleIP, Port: 9099, Packets: 1}},
	}
}

func runCanaries(t *testing.T, onHit func(host.CanaryHit)) (tcp, udp uint16) {
	t.Helper()
	c, err := canary.New(canary.Options{OnHit: onHit})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Start(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return c.Ports()
}
