// SPDX-License-Identifier: Apache-2.0

// Package egress is the allow-list of the default bundle: how a rule is
// written, what it matches, and the file in which rules travel. It is pure: it
// resolves no name, opens no connection and reads no file. What it cannot
// understand it does not match, and its zero values let nothing through.
package egress

import (
	"net/netip"
	"strconv"
)

// DefaultPort is the port of a rule that names none.
const DefaultPort = 443

// Rule lets a guest reach one host, all subdomains of one, or one network of
// addresses, each on one TCP port. It is comparable, and two spellings of the
// same rule are equal. The zero Rule matches nothing.
type Rule struct {
	name       string       // lower case, no dot at its end; "" for addresses
	subdomains bool         // those below name, and not name itself
	addrs      netip.Prefix // valid for addresses only
	port       uint16
}

// IsAddr says that the rule names addresses: an IP or a CIDR.
func (r Rule) IsAddr() bool { return r.addrs.IsValid() }

// Port is the TCP port that the rule lets through.
func (r Rule) Port() uint16 { return r.port }

// String is the rule in its one canonical spelling, port included; Parse of
// it is the rule again.
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
