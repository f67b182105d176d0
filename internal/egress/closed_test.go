// SPDX-License-Identifier: Apache-2.0

package egress_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/egress"
)

// TestWithout: a closed network is closed in every spelling, whatever the rules
// say, and nothing else is closed.
func TestWithout(t *testing.T) {
	const what = "the bundle's own network"
	open, err := egress.ParseSet([]string{"0.0.0.0/0", "::/0", "192.168.44.1", "192.168.44.0/24", "*.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	s := open.Without(what, netip.MustParsePrefix("192.168.44.2/24"), netip.MustParsePrefix("2001:db8:44::2/64"))
	for _, host := range []string{
		"192.168.44.0", "192.168.44.1", "192.168.44.255", "::ffff:192.168.44.1", "[::ffff:c0a8:2c01]", "64:ff9b::192.168.44.1", "2002:c0a8:2c01::1",
		"2001:db8:44::1", "[2001:db8:44:0:ffff::1]",
	} {
		addr := netip.MustParseAddr(strings.Trim(host, "[]"))
		if r, ok := s.Match(host, 443); ok || s.AllowsAddr(addr, 443) {
			t.Errorf("%s: got rule %s, want none", host, r)
		}
		for name, err := range map[string]error{"check": s.CheckAddr(addr, 443), "unreachable": s.Unreachable(host)} {
			var refused *egress.AddrError
			if !errors.As(err, &refused) || refused.Why != what || refused.Rule != "" || !strings.Contains(err.Error(), "can never be reached: it is "+what) {
				t.Errorf("%s, %s: got %v, want the reason %s", name, host, err, what)
			}
		}
		if _, ok := open.Match(host, 443); !ok {
			t.Errorf("%s in the original set: got no rule, want it unchanged", host)
		}
	}
	for _, host := range []string{"192.168.43.255", "192.168.45.0", "2001:db8:45::1", "203.0.113.1", "192.0.2.1", "198.51.100.7"} {
		if _, ok := s.Match(host, 443); !ok || s.CheckAddr(netip.MustParseAddr(host), 443) != nil || s.Unreachable(host) != nil {
			t.Errorf("%s: got no rule, want one", host)
		}
	}
	both := s.Without("another", netip.MustParsePrefix("203.0.113.0/24"))
	if _, ok := s.Match("203.0.113.1", 443); !ok {
		t.Error("the second Without changed the set that it was called on")
	}
	// The slice of both's three networks has spare capacity, which its copies must
	// not share.
	one, two := both.Without("one", netip.MustParsePrefix("192.0.2.0/25")), both.Without("two", netip.MustParsePrefix("192.0.2.128/25"))
	if one.Unreachable("192.0.2.1") == nil || one.Unreachable("192.0.2.129") != nil || two.Unreachable("192.0.2.129") == nil {
		t.Error("two sets made from one set share networks")
	}
	for host, why := range map[string]string{"203.0.113.1": "another", "192.168.44.1": what, "127.0.0.1": "loopback", "169.254.169.254": "link-local"} {
		if err := both.Unreachable(host); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: got %v, want the reason %s", host, err, why)
		}
	}
	for _, host := range []string{"", "a.example.com", "10.0.0.1", "fe80::1%eth0", "127.1", "[127.0.0.1]"} {
		if err := both.Unreachable(host); err != nil {
			t.Errorf("%q: got %v, want nil", host, err)
		}
	}
	var none egress.Set
	if err := none.Without(what, netip.MustParsePrefix("10.0.0.0/8")).CheckAddr(netip.MustParseAddr("10.1.1.1"), 80); err == nil || !strings.Contains(err.Error(), what) {
		t.Errorf("the zero set: got %v, want the network closed too", err)
	}
}
