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

// wallOnly returns the evidence of a proof in which only the wall holds, because
// the release of smolvm enforces nothing, such as the oldest.
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

// bothWalls returns the evidence of a proof on the reference version of smolvm,
// with its policy in force.
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

// setOutcome sets the outcome that the report gives for the target whose
// description starts with prefix.
func setOutcome(t testing.TB, e *probe.Evidence, prefix string, outcome probe.Outcome) {
	t.Helper()
	target := pick(t, e.Plan, prefix)
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
	noDenials  = "this release of smolvm does not report what it refused"
	noList     = "this release of smolvm does not list a machine's policy"
)

// policedUnobserved are the kinds that smolvm's denials do not cover.
var policedUnobserved = []string{"another Bottle's bundle", "cloud metadata", "loopback", "name server", "node address", "public address"}

// minimalUnobserved are all kinds except those that must be seen. Only the
// node's own checks cover kinds that the site lacks.
var minimalUnobserved = []string{"another Bottle's bundle", "cloud metadata", "loopback", "name server", "node address", "public address", "smolvm's gateway"}

func TestJudge(t *testing.T) {
	proven := func(note string, unobserved ...string) probe.Verdict {
		return probe.Verdict{Result: probe.Proven, Both: note == "", PolicyNote: note, Unobserved: unobserved}
	}
	notObserved := func(missing ...string) probe.Verdict {
		return probe.Verdict{Result: probe.NotObserved, Missing: missing, PolicyNote: noPolicy, Unobserved: minimalUnobserved}
	}
	tests := map[string]struct {
		start  func(testing.TB, probe.Site) probe.Evidence
		change func(testing.TB, *probe.Evidence)
		want   probe.Verdict
	}{
		"the wall alone": {wallOnly, nil, proven(noPolicy, minimalUnobserved...)},
		// Metadata on IPv6 and name servers leave no trace.
		"both walls": {bothWalls, nil, proven("", policedUnobserved...)},
		"a denial of another port is enough for the gateway, but not for both walls": {bothWalls, func(_ testing.TB, e *probe.Evidence) {
			e.Denials = slices.DeleteFunc(e.Denials, func(a netip.AddrPort) bool { return a.Addr() == gateway && a.Port() == 4711 })
		}, proven("smolvm lists the policy but did not report that it refused tcp to gateway 192.168.44.1:4711", policedUnobserved...)},
		"metadata not denied": {bothWalls, func(_ testing.TB, e *probe.Evidence) {
			e.Denials = slices.DeleteFunc(e.Denials, func(a netip.AddrPort) bool { return a.Port() == 80 })
		}, proven("smolvm lists the policy but did not report that it refused tcp to cloud metadata 169.254.169.254:80", policedUnobserved...)},
		"the policy let the gateway through": {bothWalls, func(_ testing.TB, e *probe.Evidence) {
			e.Drops = append(e.Drops, probe.Drop{Proto: "arp", Addr: gateway, Packets: 1})
		}, proven("smolvm lists the policy but let a packet to the gateway through; the wall dropped it", policedUnobserved...)},
		"smolvm accepted a connection to the gateway": {bothWalls, func(t testing.TB, e *probe.Evidence) {
			setOutcome(t, e, "tcp to gateway", probe.Accepted)
		}, proven("smolvm lists the policy but accepted a connection: tcp to gateway 192.168.44.1:4711", policedUnobserved...)},
		"denials from a release that reports none": {bothWalls, func(_ testing.TB, e *probe.Evidence) { e.DenialsKnown = false },
			proven(noDenials, "another Bottle's bundle", "cloud metadata", "gateway", "loopback", "name server", "node address", "public address", "smolvm's gateway")},
		"a release that reports nothing at all": {bothWalls, func(_ testing.TB, e *probe.Evidence) { e.DenialsKnown, e.Policy = false, probe.PolicyUnknown },
			proven(noList, "another Bottle's bundle", "cloud metadata", "gateway", "loopback", "name server", "node address", "public address", "smolvm's gateway")},
		"addresses mapped into IPv6": {bothWalls, func(_ testing.TB, e *probe.Evidence) {
			for i, d := range e.Denials {
				e.Denials[i] = netip.AddrPortFrom(netip.AddrFrom16(d.Addr().As16()), d.Port())
			}
			for i, d := range e.Drops {
				e.Drops[i].Addr = netip.AddrFrom16(d.Addr.As16())
			}
		}, proven("", policedUnobserved...)},

		"other port not seen":               {wallOnly, func(_ testing.TB, e *probe.Evidence) { e.Drops = without(e.Drops, "tcp") }, notObserved(otherPort)},
		"other port dropped, but no packet": {wallOnly, func(_ testing.TB, e *probe.Evidence) { e.Drops[1].Packets = 0 }, notObserved(otherPort)},
		"other port dropped over UDP":       {wallOnly, func(_ testing.TB, e *probe.Evidence) { e.Drops[1].Proto = "udp" }, notObserved(otherPort)},
		"another port of the bundle":        {wallOnly, func(_ testing.TB, e *probe.Evidence) { e.Drops[1].Port++ }, notObserved(otherPort)},
		"gateway not seen":                  {wallOnly, func(_ testing.TB, e *probe.Evidence) { e.Drops = without(e.Drops, "arp") }, notObserved("gateway 192.168.44.1")},
		"nothing seen":                      {wallOnly, func(_ testing.TB, e *probe.Evidence) { e.Drops = nil }, notObserved(otherPort, "gateway 192.168.44.1")},
		"denials that this release cannot report": {wallOnly, func(_ testing.TB, e *probe.Evidence) {
			e.Drops, e.Denials = without(e.Drops, "arp"), addrPorts("192.168.44.1:4711")
		}, notObserved("gateway 192.168.44.1")},
		"gateway not seen by smolvm, which reports denials": {bothWalls, func(_ testing.TB, e *probe.Evidence) {
			e.Denials = slices.DeleteFunc(e.Denials, func(a netip.AddrPort) bool { return a.Addr() == gateway })
		}, probe.Verdict{
			Result: probe.NotObserved, Missing: []string{"gateway 192.168.44.1"}, Unobserved: policedUnobserved,
			PolicyNote: "smolvm lists the policy but did not report that it refused tcp to gateway 192.168.44.1:4711",
		}},
		"only smolvm's wall seen": {bothWalls, func(_ testing.TB, e *probe.Evidence) { e.Drops = nil }, probe.Verdict{
			Result: probe.NotObserved, Missing: []string{otherPort}, Unobserved: policedUnobserved,
		}},
		"other port denied by smolvm": {wallOnly, func(_ testing.TB, e *probe.Evidence) {
			e.Drops, e.DenialsKnown, e.Denials = without(e.Drops, "tcp"), true, addrPorts("192.168.44.2:9099")
		}, proven(noPolicy, minimalUnobserved...)},
		"the gateway's drop as IP": {wallOnly, func(_ testing.TB, e *probe.Evidence) { e.Drops[0].Proto = "udp" }, proven(noPolicy, minimalUnobserved...)},

		"port not accepted": {wallOnly, func(_ testing.TB, e *probe.Evidence) { e.Accepted = nil },
			probe.Verdict{Result: probe.NotReached, Missing: []string{bundlePort}}},
		"port reached as only the node reports": {wallOnly, func(t testing.TB, e *probe.Evidence) { setOutcome(t, e, bundlePort, probe.Refused) },
			probe.Verdict{Result: probe.NotReached, Missing: []string{bundlePort}}},
		"port accepted and reset": {wallOnly, func(t testing.TB, e *probe.Evidence) { setOutcome(t, e, bundlePort, probe.Accepted) },
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

		// Without a policy, smolvm's gateway accepts connections to any address.
		"metadata accepted in silence": {wallOnly, func(t testing.TB, e *probe.Evidence) { setOutcome(t, e, "tcp to cloud metadata 169", probe.Accepted) },
			proven(noPolicy, minimalUnobserved...)},
		// smolvm's gateway accepts connections to any port of the bundle's address.
		"other port accepted in silence": {wallOnly, func(t testing.TB, e *probe.Evidence) { setOutcome(t, e, otherPort, probe.Accepted) }, proven(noPolicy, minimalUnobserved...)},
		"its own loopback reached":       {wallOnly, func(t testing.TB, e *probe.Evidence) { setOutcome(t, e, "tcp to loopback", probe.Reached) }, proven(noPolicy, minimalUnobserved...)},
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
	// The IPv6 targets and name servers of these kinds left no trace.
	want := probe.Verdict{Result: probe.Proven, Both: true, Unobserved: []string{"cloud metadata", "loopback", "name server", "node address", "public address"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("verdict (-want +got):\n%s", diff)
	}
}

func TestJudgeConfessions(t *testing.T) {
	base := bothWalls(t, fullSite())
	for _, target := range base.Plan.Avoid {
		e := bothWalls(t, fullSite())
		setOutcome(t, &e, target.String(), probe.Reached)
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
