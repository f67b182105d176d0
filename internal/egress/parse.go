// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// maxRule is the maximum length of a rule. It leaves room for a name of 253
// characters with a wildcard, a dot and a port.
const maxRule = 280

// RuleError reports which rule cannot be used, why, and what to do about it.
type RuleError struct {
	Rule string
	Err  error
}

// Error shows the rule quoted, and cut if it is longer than any rule can be.
func (e *RuleError) Error() string {
	rule := e.Rule
	if len(rule) > maxRule {
		rule = strings.ToValidUTF8(rule[:maxRule], "") + "…"
	}
	return fmt.Sprintf("egress rule %q: %v", rule, e.Err)
}

// Unwrap returns the error that says what is wrong.
func (e *RuleError) Unwrap() error { return e.Err }

// Parse reads a rule of the form HOST[:PORT]. HOST is a name; "*." and a name,
// for all names below it; an IPv4 address or CIDR; or an IPv6 address or CIDR, in
// brackets if a port follows. Case and one dot at the end of a name do not
// matter. The error is a *RuleError.
func Parse(text string) (Rule, error) {
	r, err := parse(text)
	if err != nil {
		return Rule{}, &RuleError{text, err}
	}
	return r, nil
}

func parse(text string) (Rule, error) {
	if err := checkText(text); err != nil {
		return Rule{}, err
	}
	host, portText, err := splitPort(text)
	if err != nil {
		return Rule{}, err
	}
	port, err := parsePort(portText)
	if err != nil {
		return Rule{}, err
	}
	bracketed := strings.HasPrefix(text, "[")
	wantV6 := bracketed || strings.Contains(host, ":")
	if wantV6 || strings.Contains(host, "/") || isAddr(host) {
		addrs, err := parseAddrs(host, wantV6)
		if err != nil {
			return Rule{}, err
		}
		return Rule{addrs: addrs, port: port}, nil
	}
	name, subdomains := strings.CutPrefix(host, "*.")
	name = canonicalName(name)
	if err := checkName(name); err != nil {
		return Rule{}, err
	}
	return Rule{name: name, subdomains: subdomains, port: port}, nil
}

// checkText returns a helpful error for mistakes that people often make when
// they paste text.
func checkText(text string) error {
	switch {
	case text == "":
		return errors.New("is empty; name a host, such as api.example.com")
	case len(text) > maxRule:
		return fmt.Errorf("is longer than %d characters", maxRule)
	case strings.ContainsAny(text, " \t\r\n\v\f"):
		return errors.New("contains white space; remove it, and write one rule per entry")
	case strings.Contains(text, "://"):
		return errors.New("is a URL; leave out the scheme and the path, and give the port after a colon if it is not 443")
	case strings.ContainsAny(text, "@?#"):
		return errors.New("contains more than a host and port; leave out user, query and fragment")
	}
	for i := range len(text) {
		switch c := text[i]; {
		case c >= 0x80:
			return errors.New("is not ASCII; write an international name as punycode (xn--…)")
		case c < 0x20 || c == 0x7f:
			return errors.New("contains a control character; remove it")
		}
	}
	return nil
}

// splitPort splits a rule into host and port. The port is "" if the rule has
// none.
func splitPort(text string) (host, port string, err error) {
	if rest, ok := strings.CutPrefix(text, "["); ok {
		host, rest, ok = strings.Cut(rest, "]")
		if !ok {
			return "", "", errors.New("has no closing bracket; write [ADDRESS]:PORT")
		}
		if rest == "" {
			return host, "", nil
		}
		port, ok = strings.CutPrefix(rest, ":")
		if !ok || port == "" {
			return "", "", errors.New("has something other than :PORT after the bracket; a prefix length goes inside, as in [2001:db8::/32]:443")
		}
		return host, port, nil
	}
	switch strings.Count(text, ":") {
	case 0:
		return text, "", nil
	case 1:
		host, port, _ = strings.Cut(text, ":")
		if port == "" {
			return "", "", errors.New("has no port after the colon; give one, or leave the colon out for 443")
		}
		return host, port, nil
	}
	return text, "", nil // an IPv6 address, or invalid
}

func parsePort(text string) (uint16, error) {
	if text == "" {
		return DefaultPort, nil
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 || text[0] == '0' || text[0] == '+' {
		return 0, fmt.Errorf("port %q: want a number from 1 to 65535", text)
	}
	return uint16(n), nil
}

func isAddr(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// parseAddrs parses an address or CIDR, and returns an error if no rule may name
// it.
func parseAddrs(text string, wantV6 bool) (netip.Prefix, error) {
	var p netip.Prefix
	if addr, err := netip.ParseAddr(text); err == nil {
		if addr.Zone() != "" { // a Prefix would silently drop it
			return p, errors.New("has a zone; a link-local address can never be allowed")
		}
		p = netip.PrefixFrom(addr, addr.BitLen())
	} else if p, err = netip.ParsePrefix(text); err != nil {
		if strings.Contains(text, "/") {
			return p, errors.New("is not a CIDR like 203.0.113.0/24; if the slash starts a path, leave that out, because rules name only hosts")
		}
		return p, errors.New("is not an IPv6 address; with a port, write it as [ADDRESS]:PORT")
	}
	switch {
	case p.Addr().Is4In6():
		return p, errors.New("is an IPv4 address written as IPv6; write it as IPv4")
	case wantV6 && p.Addr().Is4():
		return p, errors.New("has IPv4 in brackets; leave them out")
	case p.Masked() != p:
		return p, fmt.Errorf("has host bits set; the network is %s", p.Masked())
	}
	if why := neverPrefix(p); why != "" {
		return p, fmt.Errorf("can never be allowed: it is %s", why)
	}
	return p, nil
}
