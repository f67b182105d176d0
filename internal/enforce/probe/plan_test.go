// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
)

// TestPlanGolden pins which targets are tried at a site, and in which order.
func TestPlanGolden(t *testing.T) {
	for name, site := range map[string]probe.Site{"minimal": minimalSite(), "full": fullSite()} {
		t.Run(name, func(t *testing.T) {
			want, err := os.ReadFile("testdata/" + name + ".targets.txt")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), describe(mustPlan(t, site))); diff != "" {
				t.Errorf("targets (-want +got):\n%s", diff)
			}
		})
	}
}

func describe(p probe.Plan) string {
	var b strings.Builder
	for _, t := range p.Reach {
		fmt.Fprintf(&b, "reach %s\n", t)
	}
	for _, t := range p.Avoid {
		fmt.Fprintf(&b, "avoid %s", t)
		if t.Canary {
			b.WriteString(" (canary)")
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestPlanIsBounded(t *testing.T) {
	s := fullSite()
	s.Ports, s.Other = nil, nil
	for port := range int32(16) {
		s.Ports = append(s.Ports, 8000+port)
		s.Other = append(s.Other, 9000+port)
	}
	for i := range 200 {
		s.Node = append(s.Node, netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}))
		s.Neighbours = append(s.Neighbours, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 2, 0, byte(i)}), 8888))
		s.Public = append(s.Public, netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 443))
	}
	p := mustPlan(t, s)
	if got := len(p.Reach) + len(p.Avoid); got > 64 {
		t.Errorf("got %d targets, want at most 64", got)
	}
}

func TestPlanRefuses(t *testing.T) {
	tests := map[string]struct {
		change func(*probe.Site)
		want   string // in the error
	}{
		"no nonce":               {func(s *probe.Site) { s.Nonce = "" }, "nonce"},
		"a short nonce":          {func(s *probe.Site) { s.Nonce = "abc" }, "nonce"},
		"a nonce in capitals":    {func(s *probe.Site) { s.Nonce = strings.ToUpper(nonce) }, "nonce"},
		"no bundle":              {func(s *probe.Site) { s.BundleIP = netip.Addr{} }, "bundle"},
		"a bundle on IPv6":       {func(s *probe.Site) { s.BundleIP = netip.MustParseAddr("fd00::2") }, "bundle"},
		"the gateway the bundle": {func(s *probe.Site) { s.Gateway = bundleIP }, "gateway"},
		"no declared port":       {func(s *probe.Site) { s.Ports = nil }, "targets to reach"},
		"too many ports":         {func(s *probe.Site) { s.Ports = make([]int32, 17); fill(s.Ports, 100) }, "targets to reach"},
		"no other port":          {func(s *probe.Site) { s.Other = nil }, "nothing to avoid"},
		"no other port but 53":   {func(s *probe.Site) { s.Other = []int32{53} }, "nothing to avoid"},
		"port 0":                 {func(s *probe.Site) { s.Ports = []int32{0} }, "port 0"},
		"port 65536":             {func(s *probe.Site) { s.Other = []int32{65536} }, "port 65536"},
		"a port in both lists":   {func(s *probe.Site) { s.Other = []int32{8888} }, "twice"},
		"no canaries":            {func(s *probe.Site) { s.CanaryUDP = 0 }, "canaries"},
		"loopback as node":       {func(s *probe.Site) { s.Node = addrs("127.0.0.1") }, "node address"},
		"mapped loopback":        {func(s *probe.Site) { s.Node = addrs("::ffff:127.0.0.1") }, "node address"},
		"the bundle as node":     {func(s *probe.Site) { s.Node = addrs("192.168.44.2") }, "node address"},
		"a zone":                 {func(s *probe.Site) { s.Node = addrs("fe80::1%eth0") }, "node address"},
		"itself as neighbour":    {func(s *probe.Site) { s.Neighbours = addrPorts("192.168.44.2:8888") }, "neighbour"},
		"port 0 in public":       {func(s *probe.Site) { s.Public = addrPorts("203.0.113.10:0") }, "public"},
		"multicast in public":    {func(s *probe.Site) { s.Public = addrPorts("224.0.0.1:80") }, "public"},
		"no patience":            {func(s *probe.Site) { s.Floor = 0 }, "patience"},
		"floor above ceiling":    {func(s *probe.Site) { s.Floor = 11 * time.Second }, "patience"},
		"endless patience":       {func(s *probe.Site) { s.Ceiling = time.Hour }, "patience"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := minimalSite()
			test.change(&s)
			p, err := s.Plan()
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got error %v, want one about %q", err, test.want)
			}
			if len(p.Reach)+len(p.Avoid) > 0 {
				t.Errorf("got a plan with the error %v, want none", err)
			}
		})
	}
}

func fill(ports []int32, from int32) {
	for i := range ports {
		ports[i] = from + int32(i)
	}
}

func TestParseNonce(t *testing.T) {
	long := strings.Repeat("a", 64)
	for data, want := range map[string]string{
		nonce: nonce, nonce + "\n": nonce, nonce + "\r\n\r\n": nonce, "a\nb": "a", long: long, long + "\n": long, long + "\r\n": long,
		"": "", "\n": "", long + "a": "", long + "a\n": "", "ABC": "", " a": "", "a ": "", "a\x00": "", "g": "", "a\rb": "",
		probe.Greeting(nonce): "",
	} {
		if got := probe.ParseNonce([]byte(data)); got != want {
			t.Errorf("%q: got %q, want %q", data, got, want)
		}
	}
}
