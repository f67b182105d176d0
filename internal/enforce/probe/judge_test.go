// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
)

// wallOnly is what is left of a proof where the wall holds alone: a release
// that enforces nothing, such as the oldest.
func wallOnly(t testing.TB, s probe.Site) probe.Evidence {
	t.Helper()
	p := mustPlan(t, s)
	e := probe.Evidence{
		Plan: p, Report: honest(p), Policy: probe.PolicyDiffers, Accepted: map[int32]uint64{},
		Drops: []probe.Drop{{Proto: "arp", Addr: gateway, Packets: 3}},
	}
	for _, r := range p.Reach {
		e.Accepted[int32(r.Port)] = 5
	}
	for _, a := range p.Avoid {
		if a.Kind == probe.KindOtherPort {
			e.Drops = append(e.Drops, probe.Drop{Proto: "tcp", Addr: a.Addr, Port: a.Port, Packets: 2})
		}
	}
	return e
}

// bothWalls is a proof on the reference version, with its policy in force.
func bothWalls(t testing.TB, s probe.Site) probe.Evidence {
	t.Helper()
	e := wallOnly(t, s)
	e.Policy, e.DenialsKnown = probe.PolicyExact, true
	e.Drops = e.Drops[1:]
	for _, a := range e.Plan.Avoid {
		if a.Kind != probe.KindOtherPort && a.Addr.Is4() && (a.Proto == probe.ProtoTCP || a.Proto == probe.ProtoUDP) {
			e.Denials = append(e.Denials, netip.AddrPortFrom(a.Addr, a.Port))
		}
	}
	return e
}

// says makes the report say outcome of the target with these words.
func says(t testing.TB, e *probe.Evidence, words string, outcome probe.Outcome) {
	t.Helper()
	target := pick(t, e.Plan, words)
	for i, r := range e.Report.Results {
		if r.Target == target {
			e.Report.Results[i].Outcome = outcome
		}
	}
}

func without(drops []probe.Drop, proto string) []probe.Drop {
	return slices.DeleteFunc(slices.Clone(drops), func(d probe.Drop) bool { return d.Proto == proto })
}

const (
	otherPort  = "tcp to other port of the bundle 192.168.44.2:9099"
	bundlePort = "tcp to bundle port 192.168.44.2:8888"
	noPolicy   = "smolvm does not list the bundle's address as the one that the machine may reach"
	noDenials  = "this release of smolvm does not tell what it refused"
	noList     = "this release of smolvm does not list a machine's policy"
)

// policedRests are those that smolvm's denials do not tell of.
var policedRests = []string{"another Bottle's bundle", "cloud metadata", "loopback", "name server", "node address", "public address"}

// minimalRests are all kinds of the minimal plan but those that must be seen.
// Of kinds that the site has none of, only the node's own checks tell.
var minimalRests = []string{"another Bottle's bundle", "cloud metadata", "loopback", "name server", "node address", "public address", "smolvm's gateway"}

func TestJudge(t *testing.T) {
	proven := func(note string, rests ...string) probe.Verdict {
		return probe.Verdict{Result: probe.Proven, Both: note == "", PolicyNote: note, Rests: rests}
	}
	notObserved := func(missing ...string) probe.Verdict {
		return probe.Verdict{Result: probe.NotObserved, Missing: missing, PolicyNote: noPolicy, Rests: minimalRests}
	}
	tests := map[string]struct {
		start  func(testing.TB, probe.Site) probe.Evidence
		change func(testing.TB, *probe.Evidence)
		want   probe.Verdict
	}{
		"the wall alone": {wallOnly, nil, proven(noPolicy, minimalRests...)},
		// Metadata on IPv6 and name servers leave no trace.
		"both walls": {bothWalls, nil, proven("", policedRests...)},
		"a denial of another port is enough of the gateway, but not of both walls": {bothWalls, func(_ testing.TB, e *probe.Evidence) {
			e.Denials = slices.DeleteFunc(e.Denials, func(a netip.AddrPort) bool { return a.Addr() == gateway && a.Port() == 4711 })
		}, proven("smolvm lists the policy but did not tell that it refused tcp to gateway 192.168.44.1:4711", policedRests...)},
		"metadata not denied": {bothWalls, func(_ testing.TB, e *probe.Evidence) {
			e.Denials = slices.DeleteFunc(e.Denials, func(a netip.AddrPort) bool { return a.Port() == 80 })
		}, proven("smolvm lists the policy but did not tell that it refused tcp to cloud metadata 169.254.169.254:80", policedRests...)},
		"the policy let the gateway through": {bothWalls, func(_ testing.TB, e *probe.Evidence) {
			e.Drops = append(e.Drops, probe.Drop{Proto: "arp", Addr: gateway, Packets: 1})
		}, proven("smolvm lists the policy but let a packet to the gateway through; the wall dropped it", policedRests...)},
		"smolvm accepted for the gateway": {bothWalls, func(t testing.TB, e *probe.Evidence) {
			says(t, e, "tcp to gateway", probe.Accepted)
		}, proven("smolvm lists the policy but accepted a connection: tcp to gateway 192.168.44.1:4711", policedRests...)},
		"denials of a release that tells none": {bothWalls, func(_ testing.TB, e *probe.Evidence) { e.DenialsKnown = false },
			proven(noDenials, "another Bottle's bundle", "cloud metadata", "gateway", "loopback", "name server", "node address", "public address", "smolvm's gateway")},
		"a release that tells nothing at all": {bothWalls, func(_ testing.TB, e *probe.Evidence) { e.DenialsKnown, e.Policy = false, probe.PolicyUnknown },
			proven(noList, "another Bottle's bundle", "cloud metadata", "gateway", "loopback", "name server", "node address", "public address", "smolvm's gateway")},
		"addresses mapped into IPv6": {bothWalls, func(_ testing.TB, e *probe.Evidence) {
			for i, d := range e.Denials {
				e.Denials[i] = netip.AddrPortFrom(netip.AddrFrom16(d.Addr().As16()), d.Port())
			}
			for i, d := range e.Drops {
				e.Drops[i].Addr = netip.AddrFrom16(d.Addr.As16())
			}
		}, proven("", policedRests...)},

		"other port not seen":               {wallOnly, func(_ testing.TB, e *probe.Evidence) { e.Drops = without(e.Drops, "tcp") }, notObserved(otherPort)},
		"other port dropped, but no packet": {wallOnly, func(_ testing.TB, e *probe.Evidence) { e.Drops[1].Packets = 0 }, notObserved(otherPort)},
		"other port dropped over UDP":       {wallOnly, func(_ testing.TB, e *probe.Evidence) { e.Drops[1].Proto = "udp" }, notObserved(otherPort)},
		"another port of the bundle's":      {wallOnly, func(_ testing.TB, e *probe.Evidence) { e.Drops[1].Port++ }, notObserved(otherPort)},
		"gateway not seen":                  {wallOnly, func(_ testing.TB, e *probe.Evidence) { e.Drops = without(e.Drops, "arp") }, notObserved("gateway 192.168.44.1")},
		"nothing seen":                      {wallOnly, func(_ testing.TB, e *probe.Evidence) { e.Drops = nil }, notObserved(otherPort, "gateway 192.168.44.1")},
		"denials that this release cannot tell": {wallOnly, func(_ testing.TB, e *probe.Evidence) {
			e.Drops, e.Denials = without(e.Drops, "arp"), addrPorts("192.168.44.1:4711")
		}, notObserved("gateway 192.168.44.1")},
		"gateway not seen by smolvm, which tells": {bothWalls, func(_ testing.TB, e *probe.Evidence) {
			e.Denials = slices.DeleteFunc(e.Denials, func(a netip.AddrPort) bool { return a.Addr() == gateway })
		}, probe.Verdict{
			Result: probe.NotObserved, Missing: []string{"gateway 192.168.44.1"}, Rests: policedRests,
			PolicyNote: "smolvm lists the policy but did not tell that it refused tcp to gateway 192.168.44.1:4711",
		}},
		"smolvm's wall seen, the other not": {bothWalls, func(_ testing.TB, e *probe.Evidence) { e.Drops = nil }, probe.Verdict{
			Result: probe.NotObserved, Missing: []string{otherPort}, Rests: policedRests,
		}},
		"other port denied by smolvm": {wallOnly, func(_ testing.TB, e *probe.Evidence) {
			e.Drops, e.DenialsKnown, e.Denials = without(e.Drops, "tcp"), true, addrPorts("192.168.44.2:9099")
		}, proven(noPolicy, minimalRests...)},
		"the gateway's drop as IP": {wallOnly, func(_ testing.TB, e *probe.Evidence) { e.Drops[0].Proto = "udp" }, proven(noPolicy, minimalRests...)},

		"port not accepted": {wallOnly, func(_ testing.TB, e *probe.Evidence) { e.Accepted = nil },
			probe.Verdict{Result: probe.NotReached, Missing: []string{bundlePort}}},
		"port reached by the node's word alone": {wallOnly, func(t testing.TB, e *probe.Evidence) { says(t, e, bundlePort, probe.Refused) },
			probe.Verdict{Result: probe.NotReached, Missing: []string{bundlePort}}},
		"port accepted and reset": {wallOnly, func(t testing.TB, e *probe.Evidence) { says(t, e, bundlePort, probe.Accepted) },
			probe.Verdict{Result: probe.NotReached, Missing: []string{bundlePort}}},

		"no report": {wallOnly, func(_ testing.TB, e *probe.Evidence) { e.Report = nil },
			probe.Verdict{Result: probe.NotObserved, Missing: []string{"the prober's report"}}},
		"another proof's report": {wallOnly, func(_ testing.TB, e *probe.Evidence) { e.Report.Nonce = strings.Repeat("0", 32) },
			probe.Verdict{Result: probe.NotObserved, Missing: []string{"the prober's report"}}},
		"no plan": {wallOnly, func(_ testing.TB, e *probe.Evidence) { e.Plan = probe.Plan{}; e.Report = &probe.Report{} },
			probe.Verdict{Result: probe.NotObserved, Missing: []string{"the prober's report"}}},
		"a plan that avoids nothing": {wallOnly, func(_ testing.TB, e *probe.Evidence) {
			e.Plan.Avoid, e.Report.Results = nil, e.Report.Results[:1]
		}, probe.Verdict{Result: probe.NotObserved, Missing: []string{"the prober's report"}}},

		// smolvm's gateway accepts for everyone where it has no policy.
		"metadata accepted in silence": {wallOnly, func(t testing.TB, e *probe.Evidence) { says(t, e, "tcp to cloud metadata 169", probe.Accepted) },
			proven(noPolicy, minimalRests...)},
		// smolvm's gateway accepts for the bundle's address, whatever the port.
		"other port accepted in silence": {wallOnly, func(t testing.TB, e *probe.Evidence) { says(t, e, otherPort, probe.Accepted) }, proven(noPolicy, minimalRests...)},
		"its own loopback reached":       {wallOnly, func(t testing.TB, e *probe.Evidence) { says(t, e, "tcp to loopback", probe.Reached) }, proven(noPolicy, minimalRests...)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			e := test.start(t, minimalSite())
			if test.change != nil {
				test.change(t, &e)
			}
			if diff := cmp.Diff(test.want, probe.Judge(e)); diff != "" {
				t.Errorf("verdict (-want +got):\n%s", diff)
			}
		})
	}
}

func TestJudgeFullSite(t *testing.T) {
	got := probe.Judge(bothWalls(t, fullSite()))
	// What IPv6 and names have of these rests.
	want := probe.Verdict{Result: probe.Proven, Both: true, Rests: []string{"cloud metadata", "loopback", "name server", "node address", "public address"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("verdict (-want +got):\n%s", diff)
	}
}

func TestJudgeConfessions(t *testing.T) {
	base := bothWalls(t, fullSite())
	for _, target := range base.Plan.Avoid {
		e := bothWalls(t, fullSite())
		says(t, &e, target.String(), probe.Reached)
		got := probe.Judge(e)
		if target.Kind == probe.KindLoopback {
			if got.Result != probe.Proven {
				t.Errorf("%s: got %v, want proven: a guest's loopback is its own", target, got)
			}
			continue
		}
		want := probe.Verdict{Result: probe.Confessed, Reached: []probe.Target{target}}
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("%s: (-want +got):\n%s", target, diff)
		}
	}
}
