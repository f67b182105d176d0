// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"botbottle.dev/bottle-operator/internal/errlist"
)

// Set is an allow-list. It is immutable and safe for concurrent use. The zero Set
// allows nothing.
type Set struct {
	names  map[Rule]struct{}
	addrs  []Rule  // the most specific first
	closed []class // networks that no rule opens, in addition to those of every set

	platform []Closed // networks that the platform closes
	refused  *Set     // rules that the platform refuses, which open nothing; nil for none

	opened *opened // nil for none
}

// NewSet returns the set of these rules. The zero Rule adds nothing.
func NewSet(rules ...Rule) Set {
	s := Set{names: map[Rule]struct{}{}}
	for _, r := range rules {
		switch {
		case r.IsAddr():
			s.addrs = append(s.addrs, r)
		case r.name != "":
			s.names[r] = struct{}{}
		}
	}
	slices.SortFunc(s.addrs, func(a, b Rule) int {
		return cmp.Or(cmp.Compare(b.addrs.Bits(), a.addrs.Bits()), a.addrs.Addr().Compare(b.addrs.Addr()), cmp.Compare(a.port, b.port))
	})
	s.addrs = slices.Compact(s.addrs)
	return s
}

// ParseSet parses rules and returns their set. The error wraps one *RuleError for
// each invalid rule; the set is then empty.
func ParseSet(texts []string) (Set, error) {
	rules := make([]Rule, 0, len(texts))
	var errs []error
	for _, text := range texts {
		r, err := Parse(text)
		if err != nil {
			errs = append(errs, err)
		}
		rules = append(rules, r)
	}
	if len(errs) > 0 {
		return Set{}, errlist.List(errs)
	}
	return NewSet(rules...), nil
}

// Rules returns the rules of the set, each once. Names come first, in order of
// their text, then addresses.
func (s Set) Rules() []Rule {
	out := make([]Rule, 0, len(s.names)+len(s.addrs))
	for r := range s.names {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Rule) int { return cmp.Compare(a.String(), b.String()) })
	return append(out, s.addrs...)
}

// Without returns a copy of the set in which no rule opens these networks. what
// says what the networks are, for the text of an AddrError.
func (s Set) Without(what string, networks ...netip.Prefix) Set {
	s.closed = slices.Clone(s.closed)
	for _, n := range networks {
		s.closed = append(s.closed, class{n.Masked(), what})
	}
	return s
}

// Match returns the rule that allows a guest's request for host on port. host is
// as in the request: a name, an IPv4 address, or an IPv6 address with or without
// brackets. Only address rules match an address, and only name rules match a
// name; CheckAddr judges the address to which the name resolves. No rule matches
// an address that can never be reached, or a host that is neither a plain address
// nor a proper name (127.1, 0x7f.1, a zone, a stray character).
func (s Set) Match(host string, port uint16) (Rule, bool) {
	if addr, ok := hostAddr(host); ok {
		return s.matchAddr(addr, port)
	}
	name := canonicalName(host)
	if checkName(name) != nil {
		return Rule{}, false
	}
	return s.matchName(name, port)
}

// AllowsOtherPort reports whether a rule allows host on any port.
func (s Set) AllowsOtherPort(host string) bool {
	tried := map[uint16]bool{}
	for r := range s.names {
		tried[r.port] = true
	}
	for _, r := range s.addrs {
		tried[r.port] = true
	}
	for port := range tried {
		if _, ok := s.Match(host, port); ok {
			return true
		}
	}
	return false
}

// hostAddr parses host as an address. Only an IPv6 address may have brackets.
func hostAddr(host string) (netip.Addr, bool) {
	inner, bracketed := strings.CutPrefix(host, "[")
	if bracketed {
		if inner, bracketed = strings.CutSuffix(inner, "]"); !bracketed {
			return netip.Addr{}, false
		}
	}
	addr, err := netip.ParseAddr(inner)
	return addr, err == nil && (!bracketed || addr.Is6())
}

func (s Set) matchName(name string, port uint16) (Rule, bool) {
	r := Rule{name: name, port: port}
	if _, ok := s.names[r]; ok {
		return r, true
	}
	r.subdomains = true
	for {
		var ok bool
		if _, r.name, ok = strings.Cut(r.name, "."); !ok {
			return Rule{}, false
		}
		if _, ok = s.names[r]; ok {
			return r, true
		}
	}
}

func (s Set) matchAddr(addr netip.Addr, port uint16) (Rule, bool) {
	addr, ok := canonicalAddr(addr)
	if !ok || s.never(addr) != "" || closedBy(s.platform, addr) != "" {
		return Rule{}, false
	}
	return s.addrRule(addr, port)
}

// addrRule returns the most specific rule for a canonical address, even if the
// address is closed.
func (s Set) addrRule(addr netip.Addr, port uint16) (Rule, bool) {
	for _, r := range s.addrs {
		if r.port == port && r.addrs.Contains(addr) {
			return r, true
		}
	}
	return Rule{}, false
}

// AllowsAddr reports whether an address rule allows addr on port. It is false for
// an address that can never be reached, whatever the rules say.
func (s Set) AllowsAddr(addr netip.Addr, port uint16) bool {
	_, ok := s.matchAddr(addr, port)
	return ok
}

// CheckAddr checks an address to which an allowed name resolves, before it is
// dialled. It returns nil if the address is public or an address rule allows it
// on port, and otherwise an *AddrError. It does not check whether the name is
// allowed; Match does. The caller must dial exactly this address, and must not
// resolve the name again.
func (s Set) CheckAddr(addr netip.Addr, port uint16) error {
	plain, ok := canonicalAddr(addr)
	if !ok {
		return &AddrError{Addr: addr, Port: port, Why: "not a plain address"}
	}
	if why := s.never(plain); why != "" {
		return &AddrError{Addr: addr, Port: port, Why: why}
	}
	if by := closedBy(s.platform, plain); by != "" {
		return &AddrError{Addr: addr, Port: port, Why: by.String(), By: by}
	}
	if s.AllowsAddr(plain, port) {
		return nil
	}
	if why := find(private, plain); why != "" {
		rule := Rule{addrs: netip.PrefixFrom(plain, plain.BitLen()), port: port}
		return &AddrError{Addr: addr, Port: port, Why: why, Rule: rule.String()}
	}
	return nil
}

// Unreachable returns an *AddrError if host, as a request names it, is an address
// that no rule can open, and nil for everything else. A nil error does not mean
// that host may be reached.
func (s Set) Unreachable(host string) error {
	addr, ok := hostAddr(host)
	if !ok {
		return nil
	}
	if addr, ok = canonicalAddr(addr); !ok {
		return nil
	}
	if why := s.never(addr); why != "" {
		return &AddrError{Addr: addr, Why: why}
	}
	return nil
}

// Refusal returns an *AddrError or a *ClosedError for a destination that a rule of
// the Bottle names but a limit of the platform closes, and nil for everything else.
// For an address that no rule of its Bottle names, a guest cannot tell from the
// answer whether the platform closes it.
func (s Set) Refusal(host string, port uint16) error {
	refused := false
	if s.refused != nil {
		_, refused = s.refused.Match(host, port)
	}
	if addr, ok := hostAddr(host); ok {
		addr, ok = canonicalAddr(addr)
		_, named := s.addrRule(addr, port)
		if by := closedBy(s.platform, addr); ok && (refused || named) && by != "" {
			return &AddrError{Addr: addr, Port: port, Why: by.String(), By: by}
		}
	}
	if refused {
		return &ClosedError{ByCeiling}
	}
	return nil
}

// never returns why a canonical address can never be reached; "" if it can.
func (s Set) never(addr netip.Addr) string {
	return cmp.Or(find(never, addr), find(s.closed, addr))
}
