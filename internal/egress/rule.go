// SPDX-License-Identifier: Apache-2.0

// Package egress implements the rules of the default bundle: the syntax of the
// allow-list, the rules for requests to opened hosts, what they match, and the file that
// carries them. It is pure: it resolves
// no name, opens no connection and opens no file. It matches nothing that it
// cannot parse, and its zero values allow nothing.
package egress

import (
	"net/netip"
	"strconv"
)

// DefaultPort is the port of a rule without a port.
const DefaultPort = 443

// Rule allows a guest to reach one host, all subdomains of a name, or one network
// of addresses, on one TCP port. Rules are comparable, and two spellings of the
// same rule are equal. The zero Rule matches nothing.
type Rule struct {
	name       string       // lower case, no dot at its end; "" for addresses
	subdomains bool         // the rule is for all names below name, not for name itself
	addrs      netip.Prefix // valid for addresses only
	port       uint16
}

// IsAddr reports whether the rule is for addresses: an IP or a CIDR.
func (r Rule) IsAddr() bool { return r.addrs.IsValid() }

// Port returns the TCP port that the rule allows.
func (r Rule) Port() uint16 { return r.port }

// String returns the rule in its canonical spelling, including the port. Parse
// returns the same rule for it.
func (r Rule) String() string {
	port := ":" + strconv.Itoa(int(r.port))
	switch {
	case r.subdomains:
		return "*." + r.name + port
	case !r.IsAddr():
		return r.name + port
	}
	host := r.addrs.String()
	if r.addrs.IsSingleIP() {
		host = r.addrs.Addr().String()
	}
	if r.addrs.Addr().Is6() {
		host = "[" + host + "]"
	}
	return host + port
}
