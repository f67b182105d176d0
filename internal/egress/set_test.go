// SPDX-License-Identifier: Apache-2.0

package egress_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/egress"
)

func mustSet(t testing.TB, rules ...string) egress.Set {
	t.Helper()
	s, err := egress.ParseSet(rules)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMatch(t *testing.T) {
	rules := []string{"api.example.com", "api.example.com:8080", "*.example.org", "*.eu.example.org", "one.example.org",
		"203.0.113.7:22", "203.0.113.0/24", "[2001:db8::/32]:443", "[2001:db8::1]:443", "10.0.0.0/8:5432", "intranet:80"}
	tests := []struct {
		host string
		port uint16
		want string // the rule; "" for none
	}{
		{"api.example.com", 443, "api.example.com:443"},
		{"API.EXAMPLE.COM", 443, "api.example.com:443"},
		{"api.example.com.", 443, "api.example.com:443"},
		{"api.example.com", 8080, "api.example.com:8080"},
		{"api.example.com", 80, ""},
		{"api.example.com", 0, ""},
		{"api.example.com..", 443, ""},
		{"example.com", 443, ""},
		{"x.api.example.com", 443, ""},
		{"api.example.com.evil.test", 443, ""},
		{"evilapi.example.com", 443, ""},
		{"a.example.org", 443, "*.example.org:443"},
		{"a.b.c.example.org", 443, "*.example.org:443"},
		{"x.eu.example.org", 443, "*.eu.example.org:443"},
		{"eu.example.org", 443, "*.example.org:443"},
		{"one.example.org", 443, "one.example.org:443"},
		{"x.one.example.org", 443, "*.example.org:443"},
		{"example.org", 443, ""},
		{"EXAMPLE.ORG.", 443, ""},
		{".example.org", 443, ""},
		{"*.example.org", 443, ""},
		{"evilexample.org", 443, ""},
		{"a.example.org", 80, ""},
		{"a.example.org\x00", 443, ""},
		{"a b.example.org", 443, ""},
		{"a/.example.org", 443, ""},
		{"a@.example.org", 443, ""},
		{"a%2e.example.org", 443, ""},
		{"a。example.org", 443, ""},
		{"\u212a.example.org", 443, ""}, // the Kelvin sign, k in lower case
		{"\u017f.example.org", 443, ""}, // the long s, S in upper case
		{"a\xff.example.org", 443, ""},
		{"-.example.org", 443, ""},
		{strings.Repeat("a.", 200) + "example.org", 443, ""},
		{"intranet", 80, "intranet:80"},
		{"203.0.113.7", 22, "203.0.113.7:22"},
		{"203.0.113.7", 443, "203.0.113.0/24:443"},
		{"203.0.113.8", 443, "203.0.113.0/24:443"},
		{"203.0.113.8", 22, ""},
		{"203.0.114.1", 443, ""},
		{"::ffff:203.0.113.8", 443, "203.0.113.0/24:443"},
		{"[::ffff:203.0.113.8]", 443, "203.0.113.0/24:443"},
		{"[203.0.113.8]", 443, ""},
		{"203.0.113.8.", 443, ""},
		{"203.0.113.008", 443, ""},
		{"3405803784", 443, ""},
		{"0xcb.0.113.8", 443, ""},
		{"2001:db8::1", 443, "[2001:db8::1]:443"},
		{"[2001:DB8::2]", 443, "[2001:db8::/32]:443"},
		{"[2001:db8::2", 443, ""},
		{"2001:db8::2]", 443, ""},
		{"2001:db8::2%eth0", 443, ""},
		{"2001:db9::2", 443, ""},
		{"10.1.2.3", 5432, "10.0.0.0/8:5432"},
		{"10.1.2.3", 443, ""},
		{"", 443, ""},
		{".", 443, ""},
		{"[]", 443, ""},
	}
	s := mustSet(t, rules...)
	for _, tt := range tests {
		r, ok := s.Match(tt.host, tt.port)
		got := ""
		if ok {
			got = r.String()
		}
		if got != tt.want {
			t.Errorf("%q port %d: got rule %q, want %q", tt.host, tt.port, got, tt.want)
		}
		if !ok && r != (egress.Rule{}) {
			t.Errorf("%q port %d: got rule %s with false, want none", tt.host, tt.port, r)
		}
	}
}

func TestZeroSetAllowsNothing(t *testing.T) {
	for name, s := range map[string]egress.Set{"zero": {}, "no rules": mustSet(t), "zero rule": egress.NewSet(egress.Rule{})} {
		for _, host := range []string{"example.com", "203.0.113.7", "::1", "", "intranet"} {
			for _, port := range []uint16{0, 443} {
				if r, ok := s.Match(host, port); ok {
					t.Errorf("%s set, %q: got rule %s, want none", name, host, r)
				}
			}
		}
		if s.AllowsAddr(netip.MustParseAddr("203.0.113.7"), 443) {
			t.Errorf("%s set: got 203.0.113.7 allowed, want not", name)
		}
	}
}

// deniedHosts are ways to write a denied address that some program
// reads as that address.
var deniedHosts = []string{
	"127.0.0.1", "127.0.0.2", "127.255.255.255", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0x7f.1", "0177.0.0.1",
	"017700000001", "127.0.0.1.", "127.000.000.001", "１２７.0.0.1", "127。0。0。1", "[127.0.0.1]",
	"::1", "[::1]", "0:0:0:0:0:0:0:1", "[0000:0000:0000:0000:0000:0000:0000:0001]", "::ffff:127.0.0.1", "[::FFFF:7F00:1]", "::ffff:7f00:0001",
	"::127.0.0.1", "::7f00:1", "::ffff:0:7f00:1", "64:ff9b::127.0.0.1", "64:FF9B::7f00:1", "2002:7f00:1::", "::1%lo", "[::1%25lo]", "::", "[::]",
	"localhost", "LOCALHOST", "localhost.", "a.localhost", "a.LocalHost.",
	"0.0.0.0", "0", "0.0.0.1", "00.0.0.0", "0x0", "[::ffff:0.0.0.0]",
	"169.254.169.254", "169.254.1.1", "2852039166", "0xa9fea9fe", "0xA9.0xFE.0xA9.0xFE", "169.254.43518", "0251.0376.0251.0376", "169.254.169.254.",
	"[::ffff:169.254.169.254]", "::ffff:a9fe:a9fe", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "fd20:ce::254", "fd00:42::42",
	"100.100.100.200", "168.63.129.16", "192.0.0.192", "224.0.0.1", "239.255.255.250", "255.255.255.255", "240.0.0.1", "ff02::1", "::ffff:224.0.0.1",
}

// wideOpen returns a set with every rule that might be expected to allow such a
// host.
func wideOpen(t testing.TB) egress.Set {
	rules := []string{"0.0.0.0/0:%", "[::/0]:%", "*.com:%", "[64:ff9b::/96]:%", "[2002::/16]:%", "[fe00::/7]:%", "[fd00::/8]:%"}
	var all []string
	for _, port := range []string{"80", "443", "8888"} {
		for _, r := range rules {
			all = append(all, strings.ReplaceAll(r, "%", port))
		}
	}
	return mustSet(t, all...)
}

func TestDeniedHostsUnderWideOpenRules(t *testing.T) {
	s := wideOpen(t)
	for _, host := range deniedHosts {
		for _, port := range []uint16{80, 443, 8888} {
			if r, ok := s.Match(host, port); ok {
				t.Errorf("%q port %d: got rule %s, want none", host, port, r)
			}
		}
		if addr, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
			if s.AllowsAddr(addr, 443) {
				t.Errorf("%s: got allowed, want not", addr)
			}
			var ae *egress.AddrError
			if err := s.CheckAddr(addr, 443); !errors.As(err, &ae) || ae.Rule != "" {
				t.Errorf("%s: got %v, want an error that offers no rule", addr, err)
			}
		}
	}
	if r, ok := s.Match("203.0.113.7", 443); !ok {
		t.Errorf("203.0.113.7: got rule %v, want one: the set is not wide open", r)
	}
}

func TestCheckAddr(t *testing.T) {
	s := mustSet(t, "api.example.com", "10.0.0.0/8:5432", "192.168.7.7:443", "[fd12::/16]:443")
	tests := []struct {
		addr string
		port uint16
		want string // the whole error; "" for nil
	}{
		{"203.0.113.7", 443, ""},
		{"203.0.113.7", 1, ""},
		{"::ffff:203.0.113.7", 443, ""},
		{"64:ff9b::cb00:7107", 443, ""},
		{"2001:db8::1", 443, ""},
		{"126.255.255.255", 443, ""}, // the neighbours of ranges that are not public
		{"128.0.0.0", 443, ""},
		{"172.15.255.255", 443, ""},
		{"172.32.0.0", 443, ""},
		{"223.255.255.255", 443, ""},
		{"100.63.255.255", 443, ""},
		{"100.128.0.0", 443, ""},
		{"10.1.2.3", 5432, ""},
		{"::ffff:10.1.2.3", 5432, ""},
		{"192.168.7.7", 443, ""},
		{"fd12:3::4", 443, ""},
		{"10.1.2.3", 443, "address 10.1.2.3 is private, which a rule for a name does not open; add the rule 10.1.2.3:443 to allow it"},
		{"::ffff:10.1.2.3", 443, "address ::ffff:10.1.2.3 is private, which a rule for a name does not open; add the rule 10.1.2.3:443 to allow it"},
		{"64:ff9b::a01:203", 443, "address 64:ff9b::a01:203 is private, which a rule for a name does not open; add the rule [64:ff9b::a01:203]:443 to allow it"},
		{"2002:c0a8:101::1", 443, "address 2002:c0a8:101::1 is private, which a rule for a name does not open; add the rule [2002:c0a8:101::1]:443 to allow it"},
		{"192.168.7.8", 443, "address 192.168.7.8 is private, which a rule for a name does not open; add the rule 192.168.7.8:443 to allow it"},
		{"172.31.255.255", 443, "address 172.31.255.255 is private, which a rule for a name does not open; add the rule 172.31.255.255:443 to allow it"},
		{"100.96.0.1", 443, "address 100.96.0.1 is private (carrier-grade NAT), which a rule for a name does not open; add the rule 100.96.0.1:443 to allow it"},
		{"192.0.0.8", 443, "address 192.0.0.8 is private (protocol assignments), which a rule for a name does not open; add the rule 192.0.0.8:443 to allow it"},
		{"198.19.255.255", 443, "address 198.19.255.255 is private (benchmarks), which a rule for a name does not open; add the rule 198.19.255.255:443 to allow it"},
		{"64:ff9b:1::1", 443, "address 64:ff9b:1::1 is private (local translation), which a rule for a name does not open; add the rule [64:ff9b:1::1]:443 to allow it"},
		{"fd00::1", 80, "address fd00::1 is private, which a rule for a name does not open; add the rule [fd00::1]:80 to allow it"},
		{"127.0.0.1", 443, "address 127.0.0.1 can never be reached: it is loopback"},
		{"::ffff:169.254.169.254", 80, "address ::ffff:169.254.169.254 can never be reached: it is link-local, where cloud metadata lives"},
		{"::1", 443, "address ::1 can never be reached: it is loopback"},
		{"fe80::1%eth0", 443, "address fe80::1%eth0 can never be reached: it is not a plain address"},
		{"2001:db8::1%eth0", 443, "address 2001:db8::1%eth0 can never be reached: it is not a plain address"},
	}
	for _, tt := range tests {
		got := ""
		if err := s.CheckAddr(netip.MustParseAddr(tt.addr), tt.port); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s port %d: got %q, want %q", tt.addr, tt.port, got, tt.want)
		}
	}
	if err := s.CheckAddr(netip.Addr{}, 443); err == nil {
		t.Error("zero address: got nil, want an error")
	}
}

// The rule that an error suggests opens the address.
func TestCheckAddrOffersARuleThatHelps(t *testing.T) {
	for _, text := range []string{"10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203", "fd00::1", "2001::1", "fec0::1"} {
		addr := netip.MustParseAddr(text)
		var ae *egress.AddrError
		if err := mustSet(t).CheckAddr(addr, 8443); !errors.As(err, &ae) || ae.Rule == "" {
			t.Errorf("%s: got %v, want an error that offers a rule", text, err)
			continue
		}
		if err := mustSet(t, ae.Rule).CheckAddr(addr, 8443); err != nil {
			t.Errorf("%s with rule %s: got %v, want nil", text, ae.Rule, err)
		}
	}
}

func TestParseSetNamesEveryBadRule(t *testing.T) {
	_, err := egress.ParseSet([]string{"https://a.example", "fine.example", "b.example:0"})
	for _, want := range []string{`"https://a.example"`, `"b.example:0"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %s", err, want)
		}
	}
}

func TestParseSetKeepsItsErrorShort(t *testing.T) {
	_, err := egress.ParseSet(make([]string, 256))
	if err == nil || !strings.HasSuffix(err.Error(), "; and 251 more") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v, want one line that ends in the number of errors not shown", err)
	}
}

func TestRules(t *testing.T) {
	s := mustSet(t, "b.example", "203.0.113.0/24", "B.example.:443", "*.a.example", "203.0.113.7", "203.0.113.7/32:443", "a.example:80")
	var got []string
	for _, r := range s.Rules() {
		got = append(got, r.String())
	}
	want := []string{"*.a.example:443", "a.example:80", "b.example:443", "203.0.113.7:443", "203.0.113.0/24:443"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("rules (-want +got):\n%s", d)
	}
}

func BenchmarkMatch(b *testing.B) {
	rules := []string{"*.example.org", "10.0.0.0/8"}
	for i := range 254 {
		rules = append(rules, "host"+strings.Repeat("x", i%50)+".example"+strings.Repeat("y", i/50)+".com")
	}
	s := mustSet(b, rules...)
	for _, host := range []string{"a.b.c.example.org", "203.0.113.7", "not.allowed.test"} {
		b.Run(host, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Match(host, 443)
			}
		})
	}
}
