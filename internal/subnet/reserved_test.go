// SPDX-License-Identifier: Apache-2.0

package subnet_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/subnet"
)

// A reserved network excludes every candidate that it overlaps, and the choice moves
// on as for an occupied one.
func TestPickAvoidsReservedNetworks(t *testing.T) {
	pool := subnet.Default()
	first := pool.FirstChoice("demo")
	taken, err := pool.Pick("demo", []netip.Prefix{first}, nil)
	if err != nil {
		t.Fatal(err)
	}
	host := first.Addr().Next().Next()
	for name, network := range map[string]netip.Prefix{
		"one address":    netip.PrefixFrom(host, 32),
		"a block of it":  netip.PrefixFrom(first.Addr(), 26),
		"the network":    first,
		"with host bits": netip.PrefixFrom(host, 24),
	} {
		got, err := pool.Pick("demo", nil, []subnet.Reserved{{Network: network, By: "the API server"}})
		if err != nil || got != taken {
			t.Errorf("%s: got %v, %v, want the next candidate %v", name, got, err, taken)
		}
	}
	wide := netip.PrefixFrom(first.Addr(), 18).Masked()
	got, err := pool.Pick("demo", nil, []subnet.Reserved{{Network: wide, By: "the Pod network"}})
	if err != nil || wide.Overlaps(got.Subnet) {
		t.Errorf("a wider network: got %v, %v, want a subnet outside %s", got, err, wide)
	}
	if _, err := pool.Pick("demo", nil, []subnet.Reserved{{By: "nobody"}}); err == nil {
		t.Error("an invalid network: got nil, want an error")
	}
	if got, err := pool.Pick("demo", nil, []subnet.Reserved{{Network: netip.MustParsePrefix("fd00::/8"), By: "x"}}); err != nil || got.Subnet != first {
		t.Errorf("an IPv6 network: got %v, %v, want the first choice", got, err)
	}
}

func TestExhaustedSaysWhatExcludes(t *testing.T) {
	pool := subnet.Default()
	reserved := []subnet.Reserved{
		{Network: netip.MustParsePrefix("192.168.17.9/32"), By: "an address in an excluded network"},
		{Network: netip.MustParsePrefix("10.0.0.0/8"), By: "a network outside the pool"},
		{Network: netip.MustParsePrefix("192.168.5.10/32"), By: "the API server"},
		{Network: netip.MustParsePrefix("192.168.0.0/17"), By: "the Pod network of Node n2"},
		{Network: netip.MustParsePrefix("192.168.128.0/17"), By: "--reserved-networks"},
	}
	_, err := pool.Pick("demo", nil, reserved)
	want := "(127 by 192.168.0.0/17 (the Pod network of Node n2), 127 by 192.168.128.0/17 (--reserved-networks), 1 by 192.168.5.10/32 (the API server))"
	if !errors.Is(err, subnet.ErrExhausted) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--subnet-pool") {
		t.Errorf("got %v, want ErrExhausted with %q and the way out", err, want)
	}
	for i := range 100 {
		reserved = append(reserved, subnet.Reserved{Network: netip.MustParsePrefix(fmt.Sprintf("192.168.%d.0/24", i+20)), By: strings.Repeat("n", 60)})
	}
	_, err = pool.Pick("demo", nil, reserved)
	if !strings.Contains(err.Error(), "and 98 more") || len(err.Error()) > 1024 {
		t.Errorf("many networks: got %d bytes, %v, want a bounded list", len(err.Error()), err)
	}
}

func TestHidden(t *testing.T) {
	reserved := []subnet.Reserved{
		{Network: netip.MustParsePrefix("192.168.5.10/32"), By: "the API server"},
		{Network: netip.MustParsePrefix("192.168.6.0/24"), By: "the Pod network of Node n2"},
		{Network: netip.MustParsePrefix("fd00::/8"), By: "IPv6"},
	}
	for p, want := range map[string]string{
		"192.168.5.0/24": "192.168.5.10/32 (the API server)",
		"192.168.4.0/22": "192.168.5.10/32 (the API server), 192.168.6.0/24 (the Pod network of Node n2)",
		"192.168.7.0/24": "",
	} {
		if got := subnet.Hidden(netip.MustParsePrefix(p), reserved); got != want {
			t.Errorf("Hidden(%s): got %q, want %q", p, got, want)
		}
	}
}

func TestKeep(t *testing.T) {
	kept := netip.MustParsePrefix("192.168.7.0/24")
	for _, test := range []struct {
		occupied    string
		keep, inPod bool
	}{
		{"192.168.8.0/24", true, true},
		{"192.168.7.1/32", false, true},  // the gateway of a Pod's network
		{"192.168.7.99/32", false, true}, // a Pod
		{"192.168.7.2/32", false, false},
		{"192.168.7.3/32", false, false},
		{"192.168.0.0/16", false, false},
	} {
		occupied := []netip.Prefix{netip.MustParsePrefix(test.occupied)}
		for name, f := range map[string]struct {
			keep func(netip.Prefix, []netip.Prefix) (subnet.Triple, bool)
			want bool
		}{"Keep": {subnet.Keep, test.keep}, "KeepInPod": {subnet.KeepInPod, test.inPod}} {
			triple, got := f.keep(kept, occupied)
			if got != f.want || got && triple.Subnet != kept {
				t.Errorf("%s(%s) with %s: got %v, %v, want %v", name, kept, test.occupied, triple, got, f.want)
			}
			if _, got := f.keep(netip.Prefix{}, occupied); got {
				t.Errorf("%s without a subnet: got true, want false", name)
			}
		}
	}
}
