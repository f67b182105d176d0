// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"fmt"
	"net/netip"
)

type class struct {
	prefix netip.Prefix
	what   string
}

func classes(pairs ...string) []class {
	var out []class
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, class{netip.MustParsePrefix(pairs[i]), pairs[i+1]})
	}
	return out
}

// never are addresses that no rule can open, because they lead into the bundle,
// to the node, or to the node's credentials.
var never = classes(
	"0.0.0.0/8", "an address of this host",
	"127.0.0.0/8", "loopback",
	"169.254.0.0/16", "link-local, where cloud metadata lives",
	"100.100.100.200/32", "a cloud metadata service",
	"168.63.129.16/32", "a cloud metadata service",
	"192.0.0.192/32", "a cloud metadata service",
	"224.0.0.0/4", "multicast",
	"240.0.0.0/4", "reserved or broadcast",
	"::/128", "the unspecified address",
	"::1/128", "loopback",
	"fe80::/10", "link-local",
	"ff00::/8", "multicast",
	"fd00:ec2::254/128", "a cloud metadata service",
	"fd20:ce::254/128", "a cloud metadata service",
	"fd00:42::42/128", "a cloud metadata service",
)

// private are addresses of networks behind the node. A rule for a name that
// resolves to such an address does not open it, because the owner of the name
// chooses the address. A rule for the address does.
var private = classes(
	"10.0.0.0/8", "private",
	"172.16.0.0/12", "private",
	"192.168.0.0/16", "private",
	"100.64.0.0/10", "private (carrier-grade NAT)",
	"192.0.0.0/24", "private (protocol assignments)",
	"198.18.0.0/15", "private (benchmarks)",
	"fc00::/7", "private",
	"fec0::/10", "private (site-local)",
	"64:ff9b:1::/48", "private (local translation)",
	"2001::/32", "a tunnel (Teredo)",
)

// carriers are IPv6 networks whose addresses contain an IPv4 address in the four
// bytes from offset on. A translator or tunnel on the way would deliver packets to
// that IPv4 address.
var carriers = []struct {
	prefix netip.Prefix
	offset int
	mask   byte // each byte of the IPv4 address is XORed with it
	padded bool // the bytes may also be padding
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12, 0, false},    // NAT64
	{netip.MustParsePrefix("64:ff9b:1::/48"), 12, 0, true},   // NAT64, local prefix
	{netip.MustParsePrefix("::ffff:0:0:0/96"), 12, 0, false}, // stateless translation
	{netip.MustParsePrefix("::/96"), 12, 0, false},           // IPv4-compatible
	{netip.MustParsePrefix("2002::/16"), 2, 0, false},        // 6to4
	{netip.MustParsePrefix("2001::/32"), 4, 0, true},         // Teredo: the server
	{netip.MustParsePrefix("2001::/32"), 12, 0xff, true},     // Teredo: the client
}

// localTranslation is the network for local prefixes of translators. RFC 6052
// places the IPv4 address around byte 8, which is zero, according to the length of
// the prefix.
var localTranslation = netip.MustParsePrefix("64:ff9b:1::/48")

var localPositions = [][4]int{{6, 7, 9, 10}, {7, 9, 10, 11}, {9, 10, 11, 12}}

// carried returns the IPv4 addresses that an IPv6 address may contain.
func carried(a netip.Addr) []netip.Addr {
	if !a.Is6() {
		return nil
	}
	b := a.As16()
	var out []netip.Addr
	for _, c := range carriers {
		if v4 := v4At(b[c.offset:], c.mask); c.prefix.Contains(a) && (!c.padded || plausible(v4)) {
			out = append(out, v4)
		}
	}
	if localTranslation.Contains(a) && b[8] == 0 {
		for _, at := range localPositions {
			if v4 := netip.AddrFrom4([4]byte{b[at[0]], b[at[1]], b[at[2]], b[at[3]]}); plausible(v4) {
				out = append(out, v4)
			}
		}
	}
	// ISATAP: any network, and the interface identifier [02]00:5efe and the address.
	if b[8]&^0x02 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe {
		out = append(out, v4At(b[12:], 0))
	}
	return out
}

// plausible reports whether an IPv4 address can be meant by bytes that may also be
// padding.
func plausible(v4 netip.Addr) bool {
	first := v4.As4()[0]
	return first != 0 && first < 240
}

func v4At(b []byte, mask byte) netip.Addr {
	return netip.AddrFrom4([4]byte{b[0] ^ mask, b[1] ^ mask, b[2] ^ mask, b[3] ^ mask})
}

// carriedPrefix returns the IPv4 networks that the addresses of an IPv6 network
// contain, where these form a single network.
func carriedPrefix(p netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	if p.IsSingleIP() {
		for _, v4 := range carried(p.Addr()) {
			out = append(out, netip.PrefixFrom(v4, 32))
		}
		return out
	}
	if !p.Addr().Is6() {
		return nil
	}
	b := p.Addr().As16()
	for _, c := range carriers {
		if bits := p.Bits() - 8*c.offset; bits >= 0 && c.prefix.Bits() <= p.Bits() && c.prefix.Contains(p.Addr()) {
			out = append(out, netip.PrefixFrom(v4At(b[c.offset:], c.mask), min(bits, 32)).Masked())
		}
	}
	return out
}

// find returns what the table says that a, or the IPv4 address inside it, is; ""
// if nothing. The address must have no zone, and must not be an IPv4 address
// written as IPv6.
func find(table []class, a netip.Addr) string {
	for _, c := range table {
		if c.prefix.Contains(a) {
			return c.what
		}
	}
	for _, v4 := range carried(a) {
		if what := find(table, v4); what != "" {
			return what
		}
	}
	return ""
}

// neverPrefix returns why no part of p can ever be allowed; "" if some of it can.
func neverPrefix(p netip.Prefix) string {
	for _, c := range never {
		if c.prefix.Bits() <= p.Bits() && c.prefix.Contains(p.Addr()) {
			return c.what
		}
	}
	if p.IsSingleIP() {
		return find(never, p.Addr())
	}
	return ""
}

// canonicalAddr turns an IPv4 address written as IPv6 back into IPv4. It returns
// false if the address can never be allowed because it is invalid or has a zone,
// which only link-local addresses have.
func canonicalAddr(a netip.Addr) (netip.Addr, bool) {
	return a.Unmap(), a.IsValid() && a.Zone() == ""
}

// AddrError reports why an address may not be dialled.
type AddrError struct {
	Addr netip.Addr
	Port uint16
	// Why says what the address is, such as "loopback".
	Why string
	// Rule is the rule that would open the address; "" if none can.
	Rule string
	// By says which of the platform's limits closes the address; "" if none does.
	By ClosedBy
}

// Error says why, and which rule would open the address if one can.
func (e *AddrError) Error() string {
	if e.By != "" {
		return fmt.Sprintf("address %s is closed by the platform: it is %s", e.Addr, e.Why)
	}
	if e.Rule == "" {
		return fmt.Sprintf("address %s can never be reached: it is %s", e.Addr, e.Why)
	}
	return fmt.Sprintf("address %s is %s, which a rule for a name does not open; add the rule %s to allow it", e.Addr, e.Why, e.Rule)
}
