// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"slices"
	"strings"
)

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

// Intersect returns the set of what both sets allow. A host that is opened in either set is
// opened in the result, with those rules for its requests that both sets have, in the
// order of other. What the platform closes in either set (see Limits) is closed in the
// result. Networks that were closed by Without are not, and the result has no refused
// rules.
func (s Set) Intersect(other Set) Set {
	out := s.intersectHosts(other)
	return out.open(slices.Concat(s.OpenedHosts(), other.OpenedHosts()), commonRules(s.AllHTTPRules(), other.AllHTTPRules()))
}

// intersectHosts is like Intersect, but no host of the result is opened.
func (s Set) intersectHosts(other Set) Set {
	ours, theirs := s.Rules(), other.Rules()
	out := NewSet(append(covered(ours, theirs), covered(theirs, ours)...)...)
	out.platform = join(s.platform, other.platform)
	return out
}

// commonRules returns the rules that are in both lists, in the order of the second one. It
// leaves out those that would give a request more than both lists do: the first rule that
// matches a request decides, and if an earlier one falls away, another one does.
func commonRules(before, after []HTTPRule) []HTTPRule {
	var out []HTTPRule
	for _, r := range after {
		if index(before, r) >= 0 && index(out, r) < 0 {
			out = append(out, r)
		}
	}
	for {
		kept := slices.DeleteFunc(slices.Clone(out), func(r HTTPRule) bool {
			return inheritsMore(r, before, out) || inheritsMore(r, after, out)
		})
		if len(kept) == len(out) {
			return out
		}
		out = kept
	}
}

// inheritsMore reports whether a rule of the list stands before r and is not kept, so that
// requests that were its own fall to r, which gives them another credential or lets more
// Secrets pass.
func inheritsMore(r HTTPRule, list, kept []HTTPRule) bool {
	for _, earlier := range list[:max(0, index(list, r))] {
		if earlier.Host != r.Host || index(kept, earlier) >= 0 {
			continue
		}
		more := slices.ContainsFunc(r.PassSecrets, func(name string) bool { return !slices.Contains(earlier.PassSecrets, name) })
		if more || r.Credential != nil && !r.sameCredential(earlier) {
			return true
		}
	}
	return false
}

func index(rules []HTTPRule, r HTTPRule) int { return slices.IndexFunc(rules, r.Equal) }

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
