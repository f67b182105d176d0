// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
)

const nonce = "0123456789abcdef0123456789abcdef"

var (
	bundleIP = netip.MustParseAddr("192.168.44.2")
	gateway  = netip.MustParseAddr("192.168.44.1")
)

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func addrPorts(list ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range list {
		out = append(out, netip.MustParseAddrPort(a))
	}
	return out
}

// minimalSite returns a site with as little as a node can have.
func minimalSite() probe.Site {
	return probe.Site{
		Nonce: nonce, BundleIP: bundleIP, Ports: []int32{8888}, Other: []int32{9099}, Gateway: gateway,
		CanaryTCP: 4711, CanaryUDP: 4712, Floor: time.Second, Ceiling: 10 * time.Second,
	}
}

// fullSite returns a site with more of everything than a plan tries.
func fullSite() probe.Site {
	s := minimalSite()
	s.Ports = []int32{8888, 9418}
	s.Other = []int32{9099, 9100, 22, 80, 443}
	s.Node = addrs("10.0.0.5", "172.17.0.1", "192.168.44.1", "192.168.60.1", "192.168.61.1", "2001:db8::5", "fd00::5")
	s.Neighbours = addrPorts("192.168.60.2:8888", "192.168.61.2:8888", "192.168.62.2:8888")
	s.Public = addrPorts("203.0.113.10:443", "[2001:db8:ffff::1]:443", "198.51.100.53:53")
	return s
}

func mustPlan(t testing.TB, s probe.Site) probe.Plan {
	t.Helper()
	p, err := s.Plan()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// pick returns the plan's first target whose description starts with prefix.
func pick(t testing.TB, p probe.Plan, prefix string) probe.Target {
	t.Helper()
	all := slices.Concat(p.Reach, p.Avoid)
	i := slices.IndexFunc(all, func(target probe.Target) bool { return strings.HasPrefix(target.String(), prefix) })
	if i < 0 {
		t.Fatalf("the plan has no target %q", prefix)
	}
	return all[i]
}
