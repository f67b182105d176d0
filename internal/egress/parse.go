// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// maxRule is the longest text that can be a rule: a name of 253 characters
// with wildcard, dot and port has room.
const maxRule = 280

// RuleError says which rule cannot be used, why, and the way out.
type RuleError struct {
	Rule string
	Err  error
}

// Error shows the rule quoted, cut where no rule can be that long.
func (e *RuleError) Error() string {
	rule := e.Rule
	if len(rule) > maxRule {
		rule = strings.ToValidUTF8(rule[:maxRule], "") + "…"
	}
	return fmt.Sprintf("egress rule %q: %v", rule, e.Err)
}

// Unwrap returns what is wrong.
func (e *RuleError) Unwrap() error { return e.Err }

// Parse reads a rule: HOST[:PORT], where HOST is a name, "*." and a name for
// all that is below it, an IPv4 address or CIDR, or an IPv6 one, in brackets
// when a port follows. Case and one dot at the end of a name do not matter.
// The error is a *RuleError.
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

// checkText catches what people paste, before it turns into a riddle.
func checkText(text string) error {
	switch {
	case text == "":
		return errors.New("is empty; name a host, such as api.example.com")
	case len(text) > maxRule:
		return fmt.Errorf("is longer than %d characters", maxRule)
	case strings.ContainsAny(text, " \t\r\n\v\f"):
		return errors.New("holds white space; remove it, and write one rule per entry")
	case strings.Contains(text, "://"):
		return errors.New("is a URL; leave out the scheme and the path, and give the port after a colon if it is not 443")
	case strings.ContainsAny(text, "@?#"):
		return errors.New("holds more than host and port; leave out user, query and fragment")
	}
	for i := range len(text) {
		switch c := text[i]; {
		case c >= 0x80:
			return errors.New("is not ASCII; write an international name as punycode (xn--…)")
		case c < 0x20 || c == 0x7f:
			return errors.New("holds a control character; remove it")
		}
	}
	return nil
}

// splitPort takes the port off, "" where the rule names none.
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
			return "", "", errors.New("has something else than :PORT behind the bracket; a prefix length goes inside, as in [2001:db8::/32]:443")
		}
		return host, port, nil
	}
	switch strings.Count(text, ":") {
	case 0:
		return text, "", nil
	case 1:
		host, port, _ = strings.Cut(text, ":")
		if port == "" {
			return "", "", errors.New("has no port behind the colon; give one, or leave the colon out for 443")
		}
		return host, port, nil
	}
	return text, "", nil // an IPv6 address, or nothing that there is
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

// parseAddrs reads an address or CIDR that a rule may name.
func parseAddrs(text string, wantV6 bool) (netip.Prefix, error) {
	var p netip.Prefix
	if addr, err := netip.ParseAddr(text); err == nil {
		if addr.Zone() != "" { // a Prefix would drop it without a word
			return p, errors.New("has a zone; a link-local address can never be allowed")
		}
		p = netip.PrefixFrom(addr, addr.BitLen())
	} else if p, err = netip.ParsePrefix(text); err != nil {
		if strings.Contains(text, "/") {
			return p, errors.New("is no CIDR like 203.0.113.0/24; if the slash begins a path, leave that out, for rules are about hosts")
		}
		return p, errors.New("is no IPv6 address; with a port one is written [ADDRESS]:PORT")
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
