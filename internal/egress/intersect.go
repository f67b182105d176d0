// SPDX-License-Identifier: Apache-2.0

package egress

import "strings"

// Covers reports whether r matches every connection that other matches.
func (r Rule) Covers(other Rule) bool {
	switch {
	case r == (Rule{}) || other == (Rule{}) || r.port != other.port || r.IsAddr() != other.IsAddr():
		return false
	case r.IsAddr():
		return r.addrs.Bits() <= other.addrs.Bits() && r.addrs.Contains(other.addrs.Addr())
	case r == other:
		return true
	}
	return r.subdomains && strings.HasSuffix(other.name, "."+r.name)
}

// Intersect returns the set of what both sets allow. What the platform closes in
// either set (see Limits) is closed in the result. Networks that were closed by
// Without are not, and the result has no refused rules.
func (s Set) Intersect(other Set) Set {
	ours, theirs := s.Rules(), other.Rules()
	out := NewSet(append(covered(ours, theirs), covered(theirs, ours)...)...)
	out.platform = join(s.platform, other.platform)
	return out
}

// covered returns the rules that one of others covers.
func covered(rules, others []Rule) []Rule {
	var out []Rule
	for _, r := range rules {
		for _, other := range others {
			if other.Covers(r) {
				out = append(out, r)
				break
			}
		}
	}
	return out
}
