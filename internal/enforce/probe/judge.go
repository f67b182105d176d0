// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"net/netip"
	"slices"
)

// Judge returns the verdict that follows from the evidence. For Proven, the node
// must have seen that the bundle was reached, and that the targets that the wall
// can see were tried and refused. The guest's report can only weaken that, never
// add to it. Judge does not consider hits on canaries: such a hit is a leak
// immediately, whatever the result of a proof.
func Judge(e Evidence) Verdict {
	results := e.results()
	if results == nil {
		return Verdict{Result: NotObserved, Missing: []string{"the prober's report"}}
	}
	if reached := e.confessed(results); len(reached) > 0 {
		return Verdict{Result: Confessed, Reached: reached}
	}
	if missing := e.notReached(results); len(missing) > 0 {
		return Verdict{Result: NotReached, Missing: missing}
	}
	s := e.sightings()
	v := Verdict{Result: Proven, Missing: e.missing(s), Unobserved: e.unobserved(s)}
	v.PolicyNote = e.policyNote(s, results)
	if len(v.Missing) > 0 {
		v.Result = NotObserved
	}
	v.Both = v.Result == Proven && v.PolicyNote == ""
	return v
}

// results returns the report's results by target. It is nil if there is no valid
// report on this plan, or if the plan itself is invalid.
func (e Evidence) results() map[Target]Result {
	if e.Report == nil || e.Plan.check() != nil || e.Report.check(e.Plan) != nil {
		return nil
	}
	out := make(map[Target]Result, len(e.Report.Results))
	for _, r := range e.Report.Results {
		out[r.Target] = r
	}
	return out
}

// confessed returns the targets that must not be reached and that, by its own
// report, the guest reached. It leaves out loopback, because the guest has its
// own: only a canary can tell that the node's was reached.
func (e Evidence) confessed(results map[Target]Result) []Target {
	var out []Target
	for _, t := range e.Plan.Avoid {
		if t.Kind != KindLoopback && results[t].Outcome == Reached {
			out = append(out, t)
		}
	}
	return out
}

// plainAddr returns an address in the form that plans use.
func plainAddr(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// notReached returns the declared ports, except those that both the guest and
// the node saw reached.
func (e Evidence) notReached(results map[Target]Result) []string {
	var out []string
	for _, t := range e.Plan.Reach {
		if results[t].Outcome != Reached || e.Accepted[int32(t.Port)] == 0 {
			out = append(out, t.String())
		}
	}
	return out
}

// missing returns the targets that the wall or smolvm should have refused, but
// for which neither saw an attempt. Only the wall refuses other ports: smolvm's
// policy has no ports.
func (e Evidence) missing(s sightings) []string {
	var out []string
	for _, t := range e.Plan.Avoid {
		if t.Kind == KindOtherPort && !s.saw(t) {
			out = append(out, t.String())
		}
	}
	if e.gatewayShows() && !s.sawAddr(e.Plan.gateway()) {
		out = append(out, string(KindGateway)+" "+e.Plan.gateway().String())
	}
	return out
}

// gatewayShows reports whether an attempt on the gateway must leave a trace. It
// need not if smolvm may have refused it without reporting it.
func (e Evidence) gatewayShows() bool {
	return e.DenialsKnown || e.Policy == PolicyDiffers || e.Policy == PolicyDropped
}

// beyond are the kinds outside the Bottle's network that a site may lack.
var beyond = []Kind{KindNode, KindNeighbour, KindPublic}

// unobserved returns the kinds with at least one target that left no trace. No
// trace is needed: packets to targets outside the wall's network cannot leave a
// namespace without a route, and the caller checks that there is none. If the
// guest reports that a connection there was accepted, that means nothing:
// without a policy, smolvm's gateway itself accepts everything, before it has
// connected anywhere.
func (e Evidence) unobserved(s sightings) []string {
	var out []string
	for _, kind := range beyond {
		if !slices.ContainsFunc(e.Plan.Avoid, func(t Target) bool { return t.Kind == kind }) {
			out = append(out, string(kind)) // the site has none to try
		}
	}
	for _, t := range e.Plan.Avoid {
		seen := s.saw(t)
		switch t.Kind {
		case KindOtherPort:
			continue // if unseen, it is missing
		case KindGateway:
			seen = e.gatewayShows() || s.sawAddr(t.Addr)
		}
		if !seen {
			out = append(out, string(t.Kind))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
