// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/enforce/probe"
	"botbottle.dev/bottle-operator/internal/host"
)

// guest answers the prober: it tries everything, and the walls hold.
func (p *post) guest(name string, req host.ExecRequest) (int, error) {
	plan, err := probe.DecodePlan(req.Stdin)
	if err != nil {
		return 2, nil
	}
	report := probe.Report{Version: plan.Version, Nonce: plan.Nonce, RoundTrip: 1}
	for _, target := range plan.Reach {
		p.walls.CountAccepted(owner(), int32(target.Port), 3)
		report.Results = append(report.Results, probe.Result{Target: target, Outcome: probe.Reached})
	}
	for _, target := range plan.Avoid {
		switch target.Kind {
		case probe.KindOtherPort:
			p.walls.AddDrop(owner(), host.Drop{Proto: "tcp", Addr: target.Addr, Port: target.Port, Packets: 1})
		case probe.KindGateway:
			p.walls.AddDrop(owner(), host.Drop{Proto: "arp", Addr: target.Addr, Packets: 1})
		}
		report.Results = append(report.Results, probe.Result{Target: target, Outcome: p.conduct(target)})
	}
	p.proofs++
	if p.during != nil {
		p.during(plan)
	}
	out, err := probe.EncodeReport(report)
	if err == nil {
		_, err = req.Stdout.Write(out)
	}
	return 0, err
}

// newProvenPost is a machine that is proven, with a guest that can be proven
// again.
func newProvenPost(t *testing.T) *post {
	t.Helper()
	p := newPost(t)
	p.metrics = prometheus.NewRegistry()
	p.restart()
	p.machines.OnExec(p.guest)
	p.conduct = func(probe.Target) probe.Outcome { return probe.TimedOut }
	if st := p.prove(); st.Proof == nil {
		t.Fatalf("the first proof: got %+v, want it proven", st.Failure)
	}
	return p
}

// prove makes a pass, lets a proof that it starts end, and makes another.
func (p *post) prove() enforce.Standing {
	p.t.Helper()
	p.enforcer.EnsureProven(p.subject())
	p.enforcer.Settle()
	return p.enforcer.EnsureProven(p.subject())
}

func (p *post) subject() enforce.Subject {
	s := subject(spec())
	_, w, _ := p.walls.Get(owner())
	s.NetNS = w.NetNS
	return s
}

// nodeTouch is one that requests a proof.
func nodeTouch() host.Touch {
	return host.Touch{Proto: "tcp", Interface: "lo", Remote: netip.MustParseAddrPort("127.0.0.1:1"), Local: netip.MustParseAddrPort("127.0.0.1:4711")}
}

// A touch within a minute of the last proof leads to a new proof as soon as that
// minute is over, and however many touches there are, to only one.
func TestATouchAfterAProofIsProvenWithinAMinute(t *testing.T) {
	p := newProvenPost(t)
	p.clock.Step(10 * time.Second)
	p.changed = nil
	for range 5 {
		p.touch(nodeTouch())
	}
	if len(p.changed) != 1 {
		t.Errorf("notifications: got %d for five touches, want one", len(p.changed))
	}
	st := p.enforcer.EnsureProven(p.subject())
	if want := enforce.BetweenProofs - 10*time.Second; st.Proof == nil || st.After != want {
		t.Errorf("got %+v, want the proof to stand, and a look after %s", st, want)
	}
	if p.proofs != 1 {
		t.Errorf("proofs: got %d before the minute is over, want 1", p.proofs)
	}
	p.clock.Step(st.After)
	if st := p.prove(); p.proofs != 2 || st.Proof == nil || st.After != 0 {
		t.Errorf("after the minute: got %d proofs, %+v, want the second", p.proofs, st)
	}
}

// A touch while a proof runs may not be seen by that proof any more.
func TestATouchDuringAProofIsNotLost(t *testing.T) {
	p := newProvenPost(t)
	p.clock.Step(time.Hour)
	p.during = func(probe.Plan) { p.during = nil; p.enforcer.Touched(nodeTouch()) }
	p.touch(nodeTouch())
	st := p.prove()
	if p.proofs != 2 || st.After != enforce.BetweenProofs {
		t.Fatalf("got %d proofs and a look after %s, want 2 and %s", p.proofs, st.After, enforce.BetweenProofs)
	}
	p.clock.Step(st.After)
	if st := p.prove(); p.proofs != 3 || st.After != 0 {
		t.Errorf("after the minute: got %d proofs, %+v, want 3", p.proofs, st)
	}
}

// Proofs that find a leak are counted, whoever found it.
func TestProofsThatFindALeakAreCounted(t *testing.T) {
	tests := map[string]func(p *post){
		"a canary": func(p *post) {
			p.during = func(plan probe.Plan) {
				p.enforcer.Touched(host.Touch{Proto: "tcp", Nonce: plan.Nonce, Interface: "eth0"})
			}
		},
		"the prober": func(p *post) {
			p.conduct = func(target probe.Target) probe.Outcome {
				if target.Kind == probe.KindMetadata {
					return probe.Reached
				}
				return probe.TimedOut
			}
		},
	}
	for name, arrange := range tests {
		t.Run(name, func(t *testing.T) {
			p := newProvenPost(t)
			arrange(p)
			s := p.subject()
			s.Demand = "now"
			p.enforcer.EnsureProven(s)
			p.enforcer.Settle()
			if got := p.counted("leak"); got != 1 {
				t.Errorf("proofs that found a leak: got %v, want 1", got)
			}
			if got := p.counted("proven"); got != 1 {
				t.Errorf("proofs that proved: got %v, want the first alone", got)
			}
			if p.enforcer.Leak(uid, ask("1")) == nil {
				t.Error("leak: got none")
			}
			p.wantRuns(false)
		})
	}
}

func (p *post) counted(result string) float64 {
	p.t.Helper()
	families, err := p.metrics.Gather()
	if err != nil {
		p.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "bottle_agent_proofs_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == result {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}
