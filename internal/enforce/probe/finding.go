// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"net/netip"
	"strings"
)

// Finding is what a proof found about one target.
type Finding struct {
	// Address is IP:PORT, IP, or a name for a target that has neither.
	Address string
	// Protocol is TCP, UDP, ICMP or DNS.
	Protocol string
	// Expected and Observed are ObservedReached or ObservedRefused. Observed may also be
	// ObservedUnknown. It is what the node saw, except that the guest's word counts
	// where it says that it reached what it must not.
	Expected, Observed string
	// By says what Observed rests on.
	By string
}

// Values of Finding.Expected and Finding.Observed.
const (
	ObservedReached = "Reached"
	ObservedRefused = "Refused"
	ObservedUnknown = "Unknown"
)

// Values of Finding.By.
const (
	ByWallCounter  = "WallCounter"
	BySmolvmDenial = "SmolvmDenial"
	// ByGuest: the prober reports that it reached the target.
	ByGuest = "GuestReport"
	// ByHostChecks: the attempt left no trace. The wall's namespace has no way to the
	// target, and no canary was reached.
	ByHostChecks = "HostChecks"
)

// maxFindings bounds Findings.
const maxFindings = 64

// Findings returns what the evidence says about each target of the plan, at most
// maxFindings, first those that must be reached.
func (e Evidence) Findings() []Finding {
	results, s := e.results(), e.sightings()
	var out []Finding
	for _, t := range e.Plan.Reach {
		f := findingOf(t, ObservedReached)
		switch {
		case e.Accepted[int32(t.Port)] > 0 && results[t].Outcome == Reached:
			f.Observed, f.By = ObservedReached, ByWallCounter
		case results != nil:
			f.Observed, f.By = ObservedRefused, ByWallCounter
		}
		out = append(out, f)
	}
	for _, t := range e.Plan.Avoid {
		f := findingOf(t, ObservedRefused)
		switch {
		case t.Kind != KindLoopback && results[t].Outcome == Reached:
			f.Observed, f.By = ObservedReached, ByGuest
		// An attempt on the gateway may show only as an ARP request.
		case s.drops[Drop{Proto: wallProto(t), Addr: t.Addr, Port: t.Port}], t.Kind == KindGateway && s.dropped[t.Addr]:
			f.Observed, f.By = ObservedRefused, ByWallCounter
		case s.deniedTarget(t), t.Kind == KindGateway && s.denied[t.Addr]:
			f.Observed, f.By = ObservedRefused, BySmolvmDenial
		}
		out = append(out, f)
	}
	return out[:min(len(out), maxFindings)]
}

func findingOf(t Target, expected string) Finding {
	f := Finding{Protocol: strings.ToUpper(t.Proto), Expected: expected, Observed: ObservedUnknown, By: ByHostChecks}
	switch {
	case !t.Addr.IsValid():
		f.Address = "the guest's own " + string(t.Kind)
	case t.Port == 0:
		f.Address = t.Addr.String()
	default:
		f.Address = netip.AddrPortFrom(t.Addr, t.Port).String()
	}
	return f
}
