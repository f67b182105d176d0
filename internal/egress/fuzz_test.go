// SPDX-License-Identifier: Apache-2.0

package egress_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/egress"
)

// FuzzParse: any text may be parsed, and parsing a rule's String returns the same
// rule.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "api.example.com", "API.example.com.:8443", "*.example.com", "*", "*.", "203.0.113.7:22", "10.0.0.0/8:5432",
		"2001:db8::1", "[2001:db8::/32]:443", "::/0", "fe80::1%eth0", "::ffff:1.2.3.4", "127.1", "0x7f.1", "2130706433", "https://a.example/b",
		"a:80:90", "[", "[]", "[::1", "]:", ":", "/", "a/b", "1.2.3.4/", "bücher.example", "a..b", "-.a", "localhost", "a:0", "a:65536", "a:00080"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := egress.Parse(text)
		if err != nil {
			if r != (egress.Rule{}) || len(err.Error()) > 4*280+400 {
				t.Fatalf("%q: got %s and an error of %d bytes, want no rule and a short one", text, r, len(err.Error()))
			}
			return
		}
		again, err := egress.Parse(r.String())
		if err != nil || again != r || again.String() != r.String() {
			t.Fatalf("%q, parsed again from %q: got %s, %v", text, r, again, err)
		}
		if _, err := egress.Parse(strings.ToUpper(text)); err != nil {
			t.Fatalf("%q in capitals: got %v, want nil", text, err)
		}
		if r.Port() == 0 {
			t.Fatalf("%q: got port 0", text)
		}
	})
}

// FuzzMatch: a rule for a name matches only that name, or names that end in it. A
// rule for one host never opens the address of another.
func FuzzMatch(f *testing.F) {
	f.Add("example.com", "example.com", uint16(443))
	f.Add("*.example.com", "a.example.com", uint16(443))
	f.Add("*.example.com", "example.com", uint16(443))
	f.Add("203.0.113.0/24", "203.0.113.9", uint16(443))
	f.Add("0.0.0.0/0:80", "127.0.0.1", uint16(80))
	f.Add("::/0", "[::ffff:127.0.0.1]", uint16(443))
	f.Add("a.example", "A.EXAMPLE.", uint16(443))
	f.Add("k.example", "\u212a.example", uint16(443))
	f.Fuzz(func(t *testing.T, rule, host string, port uint16) {
		r, err := egress.Parse(rule)
		if err != nil {
			return
		}
		got, ok := egress.NewSet(r).Match(host, port)
		if !ok {
			if got != (egress.Rule{}) {
				t.Fatalf("%q: got %s with false", host, got)
			}
			return
		}
		if got != r || port != r.Port() {
			t.Fatalf("%q port %d: got %s, want %s", host, port, got, r)
		}
		plain := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
		addr, err := netip.ParseAddr(plain)
		if r.IsAddr() {
			if err != nil || !egress.NewSet(r).AllowsAddr(addr, port) || egress.NewSet(r).CheckAddr(addr, port) != nil {
				t.Fatalf("rule %s matched %q, which it does not allow as an address", r, host)
			}
			return
		}
		name := strings.TrimSuffix(r.String(), fmt.Sprintf(":%d", r.Port()))
		requested := strings.TrimSuffix(strings.ToLower(host), ".")
		suffix, subdomains := strings.CutPrefix(name, "*")
		fine := requested == name
		if subdomains {
			fine = strings.HasSuffix(requested, suffix) && requested != suffix
		}
		if err == nil || !fine || strings.ContainsFunc(host, func(r rune) bool { return r >= 0x80 }) {
			t.Fatalf("rule %s matched %q", r, host)
		}
	})
}

// FuzzDeniedSpellings: no rule matches any spelling of an address that can never
// be reached, even if the rules allow everything else.
func FuzzDeniedSpellings(f *testing.F) {
	f.Add(uint8(127), uint8(0), uint8(0), uint8(1), "x")
	f.Add(uint8(169), uint8(254), uint8(169), uint8(254), "")
	f.Add(uint8(0), uint8(0), uint8(0), uint8(0), ".")
	f.Add(uint8(224), uint8(0), uint8(0), uint8(251), "%1")
	f.Add(uint8(100), uint8(100), uint8(100), uint8(200), "\x00")
	f.Add(uint8(168), uint8(63), uint8(129), uint8(16), "。")
	f.Fuzz(func(t *testing.T, a, b, c, d uint8, tail string) {
		v4 := netip.AddrFrom4([4]byte{a, b, c, d})
		if !plainlyDenied(v4) {
			v4 = netip.AddrFrom4([4]byte{127, b, c, d})
		}
		s := wideOpen(t)
		for _, host := range spellings(v4) {
			for _, variant := range []string{host, strings.ToUpper(host), "[" + host + "]", host + "."} {
				if r, ok := s.Match(variant, 443); ok {
					t.Fatalf("%q, a spelling of %s: got rule %s, want none", variant, v4, r)
				}
			}
			if r, ok := s.Match(host+tail, 443); ok && r.IsAddr() && !otherAddr(s, host+tail, v4) {
				t.Fatalf("%q, near a spelling of %s: got rule %s, want none", host+tail, v4, r)
			}
			if addr, err := netip.ParseAddr(host); err == nil && (s.AllowsAddr(addr, 443) || s.CheckAddr(addr, 443) == nil) {
				t.Fatalf("%s, a spelling of %s: got allowed", addr, v4)
			}
		}
	})
}

// otherAddr reports whether host is a spelling of another address than v4 that
// the set allows. A tail can turn a spelling into one: "0" turns ::7f00:1 into
// ::7f00:10.
func otherAddr(s egress.Set, host string, v4 netip.Addr) bool {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	for _, host := range spellings(v4) {
		if same, err := netip.ParseAddr(host); err == nil && same == addr {
			return false
		}
	}
	return s.CheckAddr(addr, 443) == nil
}

// plainlyDenied reports, independently of the package, whether an address can
// never be reached.
func plainlyDenied(v4 netip.Addr) bool {
	b := v4.As4()
	return b[0] == 0 || v4.IsLoopback() || v4.IsLinkLocalUnicast() || b[0] >= 224 ||
		v4 == netip.MustParseAddr("100.100.100.200") || v4 == netip.MustParseAddr("168.63.129.16") || v4 == netip.MustParseAddr("192.0.0.192")
}

// spellings returns ways to write v4. Some programs accept some of them.
func spellings(v4 netip.Addr) []string {
	b := v4.As4()
	n := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	hi, lo := n>>16, n&0xffff
	out := []string{
		v4.String(), fmt.Sprint(n), fmt.Sprintf("%#x", n), fmt.Sprintf("0%o", n),
		fmt.Sprintf("%d.%d", b[0], n&0xffffff), fmt.Sprintf("%d.%d.%d", b[0], b[1], lo),
		fmt.Sprintf("%#x.%#x.%#x.%#x", b[0], b[1], b[2], b[3]), fmt.Sprintf("0%o.0%o.0%o.0%o", b[0], b[1], b[2], b[3]),
		fmt.Sprintf("%03d.%03d.%03d.%03d", b[0], b[1], b[2], b[3]), fmt.Sprintf("%#x.%d", b[0], n&0xffffff),
		fmt.Sprintf("2002:%x:%x::1", hi, lo), fmt.Sprintf("2002:%04x:%04x:0:0:0:0:1", hi, lo),
	}
	for _, prefix := range []string{"::ffff:", "::FFFF:", "0:0:0:0:0:ffff:", "0000:0000:0000:0000:0000:ffff:", "::ffff:0:", "64:ff9b::", "64:FF9B:0:0:0:0:", "::"} {
		out = append(out, prefix+v4.String(), fmt.Sprintf("%s%x:%x", prefix, hi, lo), fmt.Sprintf("%s%04x:%04x", prefix, hi, lo))
	}
	return out
}

// FuzzDecodeFile: any data may be decoded, and a decoded set survives encoding
// and decoding unchanged.
func FuzzDecodeFile(f *testing.F) {
	for _, seed := range []string{`{"version":1,"allow":["a.example","*.b.example:80","10.0.0.0/8","[::/0]:1"]}`, `{"version":1,"allow":[]}`,
		`{"version":1}`, `{"version":2,"allow":[]}`, `{"version":2,"allow":["a.example"],"opened":["a.example","*.b.example"],"http":[{"host":"a.example","http":[{"methods":["GET"],"paths":["/v1/**","/%2f"]}],"credential":{"secret":"s","key":"k","header":"X-Key","prefix":"p "},"passSecrets":["x"]}]}`,
		`{"VERSION":1,"Allow":["a"]}`, "", "null", "[]", "{", `{"version":1,"allow":["a","a"],"x":{}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := egress.DecodeFile(bytes.NewReader(data))
		if err != nil {
			if len(s.Rules()) != 0 {
				t.Fatalf("got rules %v with %v, want none", s.Rules(), err)
			}
			return
		}
		first, err := egress.EncodeFile(s)
		if err != nil {
			return // the canonical spellings may be longer than the original ones
		}
		again, err := egress.DecodeFile(bytes.NewReader(first))
		if err != nil || fmt.Sprint(again.Rules()) != fmt.Sprint(s.Rules()) {
			t.Fatalf("encoded and decoded: got %v, %v, want %v", again.Rules(), err, s.Rules())
		}
		second, err := egress.EncodeFile(again)
		if err != nil || !bytes.Equal(first, second) {
			t.Fatalf("encoded again: got %s, %v, want %s", second, err, first)
		}
	})
}
