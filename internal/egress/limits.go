// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// ClosedBy names the limit of the platform that keeps a destination closed. It is
// part of the rules file and of the bundle's log. A value that this release does
// not know closes like any other.
type ClosedBy string

// The limits of the platform.
const (
	// BySubnetPool: the network is in the pool that Bottles get their subnets from.
	BySubnetPool ClosedBy = "subnet-pool"
	// ByBottle: the network belongs to a Bottle and is outside the pool.
	ByBottle ClosedBy = "bottle-network"
	// ByNode: the network is an address of the node.
	ByNode ClosedBy = "node-address"
	// ByFlag: an administrator closed the network.
	ByFlag ClosedBy = "egress-closed"
	// ByCeiling: the destination is not within what any Bottle may open.
	ByCeiling ClosedBy = "egress-ceiling"
)

// String returns what such a destination is, as in "it is …". It reveals no more
// than which limit it was: guests read it.
func (b ClosedBy) String() string {
	switch b {
	case BySubnetPool:
		return "in the subnet pool, where the Bottles' own networks are"
	case ByBottle:
		return "in the network of a Bottle"
	case ByNode:
		return "an address of this node"
	case ByFlag:
		return "in a network that --egress-closed names"
	case ByCeiling:
		return "not within --egress-ceiling"
	}
	return "closed on this node"
}

// Closed is a network that the platform closes for every Bottle.
type Closed struct {
	Network netip.Prefix
	By      ClosedBy
}

// Limits are the platform's limits on the rules of every Bottle. The zero value limits
// nothing.
type Limits struct {
	// Closed networks are opened by no rule.
	Closed []Closed
	// Ceiling, if not nil, is the most that rules may open.
	Ceiling *Set
}

// LimitError reports that the platform refuses a rule. It is about the rule only;
// a RuleError around it names the rule.
type LimitError struct {
	By ClosedBy
	// Network is the closed network that the rule lies in; invalid for ByCeiling.
	Network netip.Prefix
}

// Error says which limit it was and what to do.
func (e *LimitError) Error() string {
	const remove = "remove the rule"
	switch e.By {
	case BySubnetPool:
		return fmt.Sprintf("is closed by the platform: it is in the subnet pool %s, where the Bottles' own networks are; %s", e.Network, remove)
	case ByFlag:
		return fmt.Sprintf("is closed by the platform: it is in --egress-closed %s of the node's agent; %s, or ask an administrator to open the network", e.Network, remove)
	case ByCeiling:
		return fmt.Sprintf("is closed by the platform: it is not within --egress-ceiling of the node's agent; %s, narrow it, or ask an administrator to extend the ceiling", remove)
	}
	return fmt.Sprintf("is closed by the platform: it is %s; %s", e.By, remove)
}

// ClosedError reports that a rule of the Bottle names a destination which the
// platform closes. Guests read its text.
type ClosedError struct{ By ClosedBy }

// Error says which limit it was.
func (e *ClosedError) Error() string {
	return "this destination is closed by the platform: it is " + e.By.String()
}

// ClosedReason returns which limit an error of CheckAddr or Refusal is about;
// "" for none.
func ClosedReason(err error) ClosedBy {
	var addr *AddrError
	var closed *ClosedError
	switch {
	case errors.As(err, &addr):
		return addr.By
	case errors.As(err, &closed):
		return closed.By
	}
	return ""
}

// Check returns a *LimitError if the platform refuses the rule: it lies wholly in
// closed networks, or the ceiling does not cover it. A wider rule is accepted, and
// what is closed stays closed.
func (l Limits) Check(r Rule) error {
	if r.IsAddr() {
		if c, ok := l.wholly(r.addrs); ok {
			return &LimitError{By: c.By, Network: c.Network}
		}
	}
	if l.Ceiling != nil && len(covered([]Rule{r}, l.Ceiling.Rules())) == 0 {
		return &LimitError{By: ByCeiling}
	}
	return nil
}

// Closes reports whether all of p is closed: by these limits, or because no rule can
// open it.
func (l Limits) Closes(p netip.Prefix) bool {
	_, closed := l.wholly(p)
	return closed || neverPrefix(p) != ""
}

// Apply returns the part of allowed that the limits leave. What the platform closes
// in allowed or by these limits is closed. The rules among asked that the limits
// refuse are kept as refused, so that the bundle can say why it denies their
// destinations.
func (l Limits) Apply(allowed, asked Set) Set {
	limited := allowed
	if l.Ceiling != nil {
		limited = allowed.intersectHosts(*l.Ceiling)
	}
	out := NewSet(slices.DeleteFunc(limited.Rules(), func(r Rule) bool {
		if !r.IsAddr() {
			return false
		}
		_, closed := l.wholly(r.addrs)
		return closed
	})...)
	out.closed = allowed.closed
	out.platform = join(l.Closed, allowed.platform)
	out.opened = allowed.opened // what is not allowed any more may stay opened
	refused := asked.refusedRules()
	for _, r := range asked.Rules() {
		if l.Check(r) != nil {
			refused = append(refused, r)
		}
	}
	return out.refuse(refused)
}

// Limit is like Apply, for a set to which other limits were applied before. Rules that
// were refused stay refused.
func (l Limits) Limit(s Set) Set { return l.Apply(s, s) }

// join returns the networks of both lists, each once.
func join(a, b []Closed) []Closed {
	seen := make(map[Closed]bool, len(a)+len(b))
	var out []Closed
	for _, c := range slices.Concat(a, b) {
		if !seen[c] {
			out = append(out, c)
		}
		seen[c] = true
	}
	return out
}

// refuse returns a copy of the set with these refused rules, without those that it
// allows.
func (s Set) refuse(rules []Rule) Set {
	allowed := s.Rules()
	rules = slices.DeleteFunc(rules, func(r Rule) bool { return slices.Contains(allowed, r) })
	s.refused = nil
	if len(rules) > 0 {
		refused := NewSet(rules...)
		s.refused = &refused
	}
	return s
}

func (s Set) refusedRules() []Rule {
	if s.refused == nil {
		return nil
	}
	return s.refused.Rules()
}

// wholly returns a closed network that p lies in. If p lies only in several together,
// wholly returns the one that contains p's first address.
func (l Limits) wholly(p netip.Prefix) (Closed, bool) {
	if l.covers(p) {
		for _, c := range l.Closed {
			if c.Network.Contains(p.Addr()) {
				return c, true
			}
		}
	}
	for _, v4 := range carriedPrefix(p) {
		if c, ok := l.wholly(v4); ok {
			return c, true
		}
	}
	return Closed{}, false
}

// covers reports whether the closed networks together contain all of p.
func (l Limits) covers(p netip.Prefix) bool {
	inside := false
	for _, c := range l.Closed {
		if c.Network.Bits() <= p.Bits() && c.Network.Contains(p.Addr()) {
			return true
		}
		inside = inside || c.Network.Overlaps(p)
	}
	if !inside {
		return false
	}
	low, high := halves(p)
	return l.covers(low) && l.covers(high)
}

// halves splits a network that is not a single address.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	bits := p.Bits()
	b := p.Addr().AsSlice()
	b[bits/8] |= 0x80 >> (bits % 8)
	upper, _ := netip.AddrFromSlice(b) // of the length of an address
	return netip.PrefixFrom(p.Addr(), bits+1), netip.PrefixFrom(upper, bits+1)
}

// closedBy returns which limit closes a canonical address, or the IPv4 address in
// it; "" if none does.
func closedBy(closed []Closed, a netip.Addr) ClosedBy {
	for _, c := range closed {
		if c.Network.Contains(a) {
			return c.By
		}
	}
	for _, v4 := range carried(a) {
		if by := closedBy(closed, v4); by != "" {
			return by
		}
	}
	return ""
}

// ParseNetwork reads a network to close, such as 10.96.0.0/12.
func ParseNetwork(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return netip.Prefix{}, errors.New("want a network such as 10.96.0.0/12; for one address, 10.0.0.1/32")
	case p.Addr().Is4In6():
		return netip.Prefix{}, errors.New("want an IPv4 network in its own form, such as 10.96.0.0/12")
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("has host bits set; the network is %s", p.Masked())
	}
	return p, nil
}
