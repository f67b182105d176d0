// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/enforce/probe"
	"botbottle.dev/bottle-operator/internal/host"
)

// guest plays the prober in the guest: it tries everything, and the walls hold.
func (f *fixture) guest(name string, req host.ExecRequest) (int, error) {
	plan, err := probe.DecodePlan(req.Stdin)
	if err != nil {
		return 2, nil
	}
	report := probe.Report{Version: plan.Version, Nonce: plan.Nonce, RoundTrip: 1}
	for _, target := range plan.Reach {
		f.walls.CountAccepted(owner(), int32(target.Port), 3)
		report.Results = append(report.Results, probe.Result{Target: target, Outcome: probe.Reached})
	}
	for _, target := range plan.Avoid {
		switch target.Kind {
		case probe.KindOtherPort:
			f.walls.AddDrop(owner(), host.Drop{Proto: "tcp", Addr: target.Addr, Port: target.Port, Packets: 1})
		case probe.KindGateway:
			f.walls.AddDrop(owner(), host.Drop{Proto: "arp", Addr: target.Addr, Packets: 1})
		}
		report.Results = append(report.Results, probe.Result{Target: target, Outcome: f.respond(target)})
	}
	f.proofs++
	if f.during != nil {
		f.during(plan)
	}
	out, err := probe.EncodeReport(report)
	if err == nil {
		_, err = req.Stdout.Write(out)
	}
	return 0, err
}

// newProvenFixture returns a fixture with a proven machine, whose guest can be
// proven again.
func newProvenFixture(t *testing.T) *fixture {
	t.Helper()
	f := newFixture(t)
	f.metrics = prometheus.NewRegistry()
	f.restart()
	f.machines.OnExec(f.guest)
	f.respond = func(probe.Target) probe.Outcome { return probe.TimedOut }
	if st := f.prove(); st.Proof == nil {
		t.Fatalf("the first proof: got %+v, want it proven", st.Failure)
	}
	return f
}

// prove makes a pass, waits for the proof that it may start, and makes another
// pass.
func (f *fixture) prove() enforce.Standing {
	f.t.Helper()
	f.enforcer.EnsureProven(f.subject())
	f.enforcer.Settle()
	return f.enforcer.EnsureProven(f.subject())
}

func (f *fixture) subject() enforce.Subject {
	s := subject(spec())
	_, w, _ := f.walls.Get(owner())
	s.NetNS = w.NetNS
	return s
}

// nodeHit returns a hit from the node, which requests a proof.
func nodeHit() host.CanaryHit {
	return host.CanaryHit{Proto: "tcp", Interface: "lo", Remote: netip.MustParseAddrPort("127.0.0.1:1"), Local: netip.MustParseAddrPort("127.0.0.1:4711")}
}

// Hits within a minute of the last proof lead to a new proof as soon as that
// minute is over, and to only one, no matter how many there are.
func TestAHitAfterAProofStartsAnotherAfterAMinute(t *testing.T) {
	f := newProvenFixture(t)
	f.clock.Step(10 * time.Second)
	f.changed = nil
	for range 5 {
		f.hit(nodeHit())
	}
	if len(f.changed) != 1 {
		t.Errorf("notifications: got %d for five hits, want one", len(f.changed))
	}
	st := f.enforcer.EnsureProven(f.subject())
	if want := enforce.BetweenProofs - 10*time.Second; st.Proof == nil || st.After != want {
		t.Errorf("got %+v, want the proof to stay valid, and another call after %s", st, want)
	}
	if f.proofs != 1 {
		t.Errorf("proofs: got %d before the minute is over, want 1", f.proofs)
	}
	f.clock.Step(st.After)
	if st := f.prove(); f.proofs != 2 || st.Proof == nil || st.After != 0 {
		t.Errorf("after the minute: got %d proofs, %+v, want the second", f.proofs, st)
	}
}

// A running proof may no longer see a hit that happens during it.
func TestAHitDuringAProofIsNotLost(t *testing.T) {
	f := newProvenFixture(t)
	f.clock.Step(time.Hour)
	f.during = func(probe.Plan) { f.during = nil; f.enforcer.RecordHit(nodeHit()) }
	f.hit(nodeHit())
	st := f.prove()
	if f.proofs != 2 || st.After != enforce.BetweenProofs {
		t.Fatalf("got %d proofs and another call after %s, want 2 and %s", f.proofs, st.After, enforce.BetweenProofs)
	}
	f.clock.Step(st.After)
	if st := f.prove(); f.proofs != 3 || st.After != 0 {
		t.Errorf("after the minute: got %d proofs, %+v, want 3", f.proofs, st)
	}
}

// A proof counts as a leak if a canary or the prober found one.
func TestProofsThatFindALeakAreCounted(t *testing.T) {
	tests := map[string]func(f *fixture){
		"a canary": func(f *fixture) {
			f.during = func(plan probe.Plan) {
				f.enforcer.RecordHit(host.CanaryHit{Proto: "tcp", Nonce: plan.Nonce, Interface: "eth0"})
			}
		},
		"the prober": func(f *fixture) {
			f.respond = func(target probe.Target) probe.Outcome {
				if target.Kind == probe.KindMetadata {
					return probe.Reached
				}
				return probe.TimedOut
			}
		},
	}
	for name, arrange := range tests {
		t.Run(name, func(t *testing.T) {
			f := newProvenFixture(t)
			arrange(f)
			s := f.subject()
			s.Demand = "now"
			f.enforcer.EnsureProven(s)
			f.enforcer.Settle()
			if got := f.counted("leak"); got != 1 {
				t.Errorf("proofs that found a leak: got %v, want 1", got)
			}
			if got := f.counted("proven"); got != 1 {
				t.Errorf("successful proofs: got %v, want only the first", got)
			}
			if f.enforcer.Leak(uid, requestFor("1")) == nil {
				t.Error("leak: got none")
			}
			f.wantRuns(false)
		})
	}
}

func (f *fixture) counted(result string) float64 {
	f.t.Helper()
	families, err := f.metrics.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "bottle_agent_proofs_total" {
			continue
		}
		for _, m := range family.GetMetric() {
			if m.GetLabel()[0].GetValue() == result {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// podsAt are Pods by their Bottles' UIDs.
type podsAt map[string]netip.Addr

func (p podsAt) InPod(uid string) bool { return p[uid].IsValid() }

func (p podsAt) Addresses(_ context.Context, owner host.Owner) ([]netip.Addr, error) {
	return []netip.Addr{p[owner.UID]}, nil
}

// The bundles of two Bottles with one slug have the same address, each in its own Pod. A
// proof then tries the other's at the address of its Pod.
func TestAProofTriesTheBundleWithTheSameAddressInAnotherPod(t *testing.T) {
	other := owner()
	other.UID, other.Namespace = "99999999-0000-4000-8000-000000000000", "other"
	f := newFixture(t)
	f.pods = podsAt{uid: netip.MustParseAddr("10.1.0.5"), other.UID: netip.MustParseAddr("10.1.0.6")}
	f.restart()
	f.ensure("1")
	f.walls.AddBridge(other)
	folder, err := f.dir.Folder(other.UID)
	if err == nil {
		err = folder.Ensure(other)
	}
	if err == nil {
		_, err = f.enforcer.EnsureWall(t.Context(), specOf(other, "44"), requestFor("1"))
	}
	if err != nil {
		t.Fatal(err)
	}
	var tried []probe.Target
	f.machines.OnExec(f.guest)
	f.respond = func(probe.Target) probe.Outcome { return probe.TimedOut }
	f.during = func(p probe.Plan) { tried = p.Avoid }
	if st := f.prove(); st.Proof == nil {
		t.Fatalf("proof: got %+v, want it proven", st.Failure)
	}
	if !slices.ContainsFunc(tried, func(t probe.Target) bool { return t.Addr == netip.MustParseAddr("10.1.0.6") && t.Port == 8888 }) {
		t.Errorf("the proof tried %v, want the other's bundle at 10.1.0.6:8888", tried)
	}
}

// The prober runs from where it is mounted, and is copied if the guest unmounted it.
func TestTheProberRunsFromItsMount(t *testing.T) {
	const mounted = "/run/bottle/in/bottle-guest"
	for name, test := range map[string]struct {
		there  bool
		takes  time.Duration
		copies int
	}{"mounted": {true, 0, 0}, "unmounted by the guest": {false, 0, 1}, "the guest lets it hang": {false, 90 * time.Second, 0}} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.change = func(o *enforce.Options) { o.MountedProgram = func(string) string { return mounted } }
			f.restart()
			f.respond = func(probe.Target) probe.Outcome { return probe.TimedOut }
			f.machines.OnExec(func(name string, req host.ExecRequest) (int, error) {
				if req.Command[0] == mounted && !test.there {
					f.clock.Step(test.takes)
					return 127, nil
				}
				return f.guest(name, req)
			})
			if st := f.prove(); (st.Proof != nil) != (test.takes == 0) {
				t.Fatalf("got proof %+v, failure %+v, want a proof unless it hangs", st.Proof, st.Failure)
			}
			copies := 0
			for _, call := range f.faults.Calls() {
				if strings.HasPrefix(call, "Copy") {
					copies++
				}
			}
			if copies != test.copies {
				t.Errorf("copies of the prober: got %d, want %d", copies, test.copies)
			}
		})
	}
}
