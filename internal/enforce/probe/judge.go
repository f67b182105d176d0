// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"net/netip"
	"slices"
)

// Judge is what follows from the evidence. Proven needs the node to have seen
// both that the bundle was reached and that what is within the wall's sight
// was tried and refused; the report can only take from that, never add to it.
// What canaries saw is not judged here: that is a leak as soon as it happens,
// whatever a proof comes to.
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
	v := Verdict{Result: Proven, Missing: e.missing(s), Rests: e.rests(s)}
	v.PolicyNote = e.policyNote(s, results)
	if len(v.Missing) > 0 {
		v.Result = NotObserved
	}
	v.Both = v.Result == Proven && v.PolicyNote == ""
	return v
}

// results are the report's, by target; nil where there is no report on this
// plan, or the plan itself makes no sense.
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

// confessed are the targets that the report says were reached and must not
// have been. The guest's loopback is its own: only a canary can tell that it
// was the node's.
func (e Evidence) confessed(results map[Target]Result) []Target {
	var out []Target
	for _, t := range e.Plan.Avoid {
		if t.Kind != KindLoopback && results[t].Outcome == Reached {
			out = append(out, t)
		}
	}
	return out
}

// plainAddr is an address as plans spell it.
func plainAddr(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// notReached are the declared ports that guest and node do not agree to have
// been reached.
func (e Evidence) notReached(results map[Target]Result) []string {
	var out []string
	for _, t := range e.Plan.Reach {
		if results[t].Outcome != Reached || e.Accepted[int32(t.Port)] == 0 {
			out = append(out, t.String())
		}
	}
	return out
}

// missing are targets that the wall or smolvm must have refused and did not
// see. Other ports are the wall's own to refuse: smolvm's policy knows none.
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

// gatewayShows says whether an attempt on the gateway must leave a trace: not
// where smolvm may have refused it without a word.
func (e Evidence) gatewayShows() bool {
	return e.DenialsKnown || e.Policy == PolicyDiffers || e.Policy == PolicyDropped
}

// beyond are the kinds outside the Bottle's network of which a site may have
// none.
var beyond = []Kind{KindNode, KindNeighbour, KindPublic}

// rests are the kinds of which at least one target left no trace, and need not
// have: what is beyond the wall's network cannot leave a namespace without a
// route, which the caller looks at. That the guest says it was accepted there
// means nothing: without a policy smolvm's gateway accepts everything by
// itself, before it has connected anywhere.
func (e Evidence) rests(s sightings) []string {
	var out []string
	for _, kind := range beyond {
		if !slices.ContainsFunc(e.Plan.Avoid, func(t Target) bool { return t.Kind == kind }) {
			out = append(out, string(kind)) // there was none to try
		}
	}
	for _, t := range e.Plan.Avoid {
		seen := s.saw(t)
		switch t.Kind {
		case KindOtherPort:
			continue // seen, or missing
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
