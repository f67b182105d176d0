// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"botbottle.dev/bottle-operator/internal/errlist"
)

// Set is an allow-list. It is immutable and safe for concurrent use; the zero
// Set lets nothing through.
type Set struct {
	names  map[Rule]struct{}
	addrs  []Rule  // the most specific first
	closed []class // networks that no rule opens, beside those of every set
}

// NewSet is the set of these rules; the zero Rule adds nothing.
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

// ParseSet is the set of rules as they are written. The error wraps one
// *RuleError for each that cannot be used; there is no set then.
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

// Rules are the rules of the set, each once: addresses behind names, names in
// order of text.
func (s Set) Rules() []Rule {
	out := make([]Rule, 0, len(s.names)+len(s.addrs))
	for r := range s.names {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Rule) int { return cmp.Compare(a.String(), b.String()) })
	return append(out, s.addrs...)
}

// Without is the set less these networks, which no rule of it opens then; what
// says what they are, for the text of an AddrError.
func (s Set) Without(what string, networks ...netip.Prefix) Set {
	s.closed = slices.Clone(s.closed)
	for _, n := range networks {
		s.closed = append(s.closed, class{n.Masked(), what})
	}
	return s
}

// Match is the rule that lets a guest ask for host, as a request names it (a
// name, an IPv4 address, or an IPv6 one with or without brackets), on port. An
// address is matched by address rules alone and a name by name rules alone;
// where the name leads is CheckAddr's to judge. Whatever is neither a plain
// address nor a proper name (127.1, 0x7f.1, a zone, a stray character) and
// every address that can never be reached has no rule.
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

// hostAddr reads host as an address, with the brackets that only IPv6 has.
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
	if !ok || s.never(addr) != "" {
		return Rule{}, false
	}
	for _, r := range s.addrs {
		if r.port == port && r.addrs.Contains(addr) {
			return r, true
		}
	}
	return Rule{}, false
}

// AllowsAddr says whether an address rule names addr on port. It is false for
// an address that can never be reached, whatever the rules say.
func (s Set) AllowsAddr(addr netip.Addr, port uint16) bool {
	_, ok := s.matchAddr(addr, port)
	return ok
}

// CheckAddr judges an address to which an allowed name leads, before it is
// dialled: nil when it is public or an address rule names it on port, else an
// *AddrError. It does not ask whether the name is allowed; Match does. The
// caller dials this very address and resolves no second time.
func (s Set) CheckAddr(addr netip.Addr, port uint16) error {
	plain, ok := canonicalAddr(addr)
	if !ok {
		return &AddrError{Addr: addr, Port: port, Why: "no plain address"}
	}
	if why := s.never(plain); why != "" {
		return &AddrError{Addr: addr, Port: port, Why: why}
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

// Unreachable is an *AddrError when host, as a request names it, is an address
// that no rule can open, and nil for everything else: it does not say that host
// may be reached.
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

// never is why a canonical address can never be reached; "" if it can.
func (s Set) never(addr netip.Addr) string {
	return cmp.Or(find(never, addr), find(s.closed, addr))
}
