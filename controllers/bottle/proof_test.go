// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
)

func TestProofsByConduct(t *testing.T) {
	tests := map[conduct]struct {
		egress, ready string
		message       string
	}{
		honest:  {"True/HostWall", "True/Ready", "let a packet to the gateway through"},
		policed: {"True/BothWalls", "True/Ready", "the node's wall and smolvm's own hold"},
		liar:    {"Unknown/ProofNotObserved", "False/ProofNotObserved", "9099"},
		mute:    {"Unknown/ProofImpossible", "False/ProofImpossible", "exit code 255"},
		garbled: {"Unknown/ProofImpossible", "False/ProofImpossible", "report"},
		deaf:    {"Unknown/BundleNotReached", "False/BundleNotReached", "8888"},
		leaky:   {"False/LeakDetected", "False/LeakDetected", "node address 10.0.0.5:4711"},
		hitting: {"False/LeakDetected", "False/LeakDetected", "10.0.0.5:4711"},
	}
	for does, tt := range tests {
		t.Run(string(does), func(t *testing.T) {
			w := newWorld(t, demo().Obj())
			w.guest.set(does)
			w.settle(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionEgressEnforced, tt.egress)
			w.wantCond(demoKey, v1alpha1.ConditionReady, tt.ready)
			if got := w.message(demoKey, v1alpha1.ConditionEgressEnforced); !strings.Contains(got, tt.message) {
				t.Errorf("message: got %q, want %q in it", got, tt.message)
			}
			leaked := strings.Contains(tt.egress, "Leak")
			if got := w.cond(demoKey, v1alpha1.ConditionStalled) != ""; got != leaked {
				t.Errorf("stalled: got %v, want %v", got, leaked)
			}
			if m, _, _ := w.machines.Get(testID); (m.State == host.MachineRunning) == leaked {
				t.Errorf("machine: got %s after %s", m.State, tt.egress)
			}
		})
	}
}

// A machine that leaked stays down until the user acknowledges the leak.
func TestALeakKeepsTheMachineDown(t *testing.T) {
	for name, acknowledge := range map[string]func(b *v1alpha1.Bottle){
		"the annotation changes": func(b *v1alpha1.Bottle) { b.Annotations = map[string]string{v1alpha1.AnnotationProve: "1"} },
		"the spec changes":       func(b *v1alpha1.Bottle) { b.Spec.Command = []string{"true"} },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, demo().Obj())
			w.guest.set(hitting)
			w.settle(demoKey)
			w.wantEvent(v1alpha1.ReasonLeakDetected)
			starts := w.machines.Starts(testID)
			w.guest.set(honest)
			for range 3 {
				w.clock.Step(time.Hour)
				w.settle(demoKey)
			}
			w.restartAgent()
			w.settle(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "False/LeakDetected")
			if got := w.machines.Starts(testID); got != starts {
				t.Fatalf("starts: got %d, want %d, because nobody acknowledged the leak", got, starts)
			}
			for _, word := range []string{"10.0.0.5:4711", "2026-01-02T03:04:05Z", "1.32.2", v1alpha1.AnnotationProve} {
				if got := w.message(demoKey, v1alpha1.ConditionEgressEnforced); !strings.Contains(got, word) {
					t.Errorf("evidence: got %q, want %q in it", got, word)
				}
			}
			w.update(demoKey, acknowledge)
			w.settle(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionEgressEnforced, "True/HostWall")
			w.wantCond(demoKey, v1alpha1.ConditionStalled, "")
		})
	}
}

// A leak is reported even if another problem ends every pass early.
func TestALeakIsReportedDespiteOtherProblems(t *testing.T) {
	w := newWorld(t, demo().Obj())
	w.guest.set(hitting)
	w.settle(demoKey)
	w.networks.Down()
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	w.wantCond(demoKey, v1alpha1.ConditionNetworkReady, "False/DockerUnavailable")
	w.wantCond(demoKey, v1alpha1.ConditionEgressEnforced, "False/LeakDetected")
	w.wantCond(demoKey, v1alpha1.ConditionReady, "False/LeakDetected")
	w.wantCond(demoKey, v1alpha1.ConditionStalled, "True/LeakDetected")
}

// A leak found by the prober stops the machine immediately, even if no pass gets
// as far as the proof.
func TestALeakReportedByTheProberStopsTheMachineImmediately(t *testing.T) {
	w := newWorld(t, demo().Obj())
	w.machines.OnExec(func(name string, req host.ExecRequest) (int, error) {
		w.networks.Down() // from here on no pass gets far
		return w.guest.exec(name, req)
	})
	w.guest.set(leaky)
	for range 6 {
		if _, err := w.pass(demoKey); err != nil {
			t.Fatal(err)
		}
		w.clock.Step(soon)
	}
	w.wantCond(demoKey, v1alpha1.ConditionEgressEnforced, "False/LeakDetected")
	if m, _, _ := w.machines.Get(testID); m.State == host.MachineRunning {
		t.Error("machine: got it running, want it stopped immediately")
	}
}

// leak lets the guest hit a canary on its own network.
func (w *world) leak() {
	w.enforcer.RecordHit(host.CanaryHit{Proto: "tcp", Interface: ownerOfDemo().Bridge(),
		Remote: netip.MustParseAddrPort("192.168.44.3:1"), Local: netip.MustParseAddrPort("192.168.44.1:4711")})
}

// A change of the spec before the leak was reported does not acknowledge it.
func TestALeakIsReportedEvenIfTheSpecChangedBefore(t *testing.T) {
	w := running(t)
	w.networks.Down()
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.Command = []string{"true"} })
	w.leak()
	for range 2 {
		if _, err := w.pass(demoKey); err != nil {
			t.Fatal(err)
		}
	}
	w.wantCond(demoKey, v1alpha1.ConditionStalled, "True/LeakDetected")
	w.networks.Up()
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "False/LeakDetected")
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.Command = []string{"false"} })
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	if got := w.bottle(demoKey).Status.Egress; got != nil {
		t.Errorf("status.egress: got %+v, want no leak", got)
	}
}

// A leak that is first reported while the Bottle is stopped counts like any
// other. The Bottle must not be Ready and Stalled at the same time.
func TestALeakIsReportedAlthoughTheBottleIsStopped(t *testing.T) {
	w := running(t)
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
	w.leak()
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionEgressEnforced, "False/LeakDetected")
	w.wantCond(demoKey, v1alpha1.ConditionReady, "False/LeakDetected")
	w.wantCond(demoKey, v1alpha1.ConditionStalled, "True/LeakDetected")
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "False/Stopped")
	w.annotate(v1alpha1.AnnotationProve, "seen")
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Stopped")
	w.wantCond(demoKey, v1alpha1.ConditionStalled, "")
}

// An eviction does not acknowledge a leak: it moves with the Bottle to the next
// node.
func TestALeakMovesWithAnEvictedBottle(t *testing.T) {
	w := newWorld(t, demo().Obj())
	w.guest.set(hitting)
	w.settle(demoKey)
	w.guest.set(honest)
	evict := func(b *v1alpha1.Bottle) {
		meta.SetStatusCondition(&b.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionScheduled, Status: "False", Reason: v1alpha1.ReasonEvicted, Message: "drained"})
	}
	w.update(demoKey, evict)
	for range 5 {
		if _, err := w.pass(demoKey); err != nil {
			t.Fatal(err)
		}
		w.clock.Step(soon)
	}
	w.wantEmpty()
	w.update(demoKey, func(b *v1alpha1.Bottle) {
		b.Status.NodeName = ptr.To(testNode)
		meta.SetStatusCondition(&b.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionScheduled, Status: "True", Reason: v1alpha1.ReasonScheduled, Message: "on node-a"})
	})
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "False/LeakDetected")
	if names := w.machines.Names(); len(names) != 0 {
		t.Errorf("machines: got %v, want none", names)
	}
	w.annotate(v1alpha1.AnnotationProve, "again")
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
}

// manyPorts has as many ports as a Bottle can declare, among them those that
// proofs try first.
var manyPorts = []int32{9099, 22, 80, 443, 8080, 8443, 9090, 3128, 5000, 6379, 5432, 3306, 2375, 10250, 25, 111}

// A proof finds an undeclared port to try even if a Bottle declares the maximum.
func TestABottleWithManyPortsCanBeProven(t *testing.T) {
	w := newWorld(t, demo().BundleImage(foreignImage).BundlePorts(manyPorts...).Obj())
	w.allowed = []string{"ghcr.io/org/*"}
	w.restartAgent()
	w.bundles.AddImage(foreignImage, manyPorts...)
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
}

// The node's address may lie within the subnet pool.
func TestNodeAddressesWithinThePoolAreTried(t *testing.T) {
	w := newWorld(t, demo().Obj())
	w.canaries.SetAddresses(netip.MustParseAddr("192.168.1.5"))
	w.guest.set(leaky)
	w.settle(demoKey)
	if got := w.message(demoKey, v1alpha1.ConditionEgressEnforced); !strings.Contains(got, "192.168.1.5:4711") {
		t.Errorf("message: got %q, want the node's address named", got)
	}
}

func TestALeakedBottleCanBeStoppedAndDeleted(t *testing.T) {
	w := newWorld(t, demo().Obj())
	w.guest.set(hitting)
	w.settle(demoKey)
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Stopped")
	w.remove()
	w.wantEmpty()
}

// The same agent does not repeat a proof without a reason.
func TestWhenProofsAreMade(t *testing.T) {
	tests := map[string]struct {
		change func(w *world)
		proofs int // in addition to the first
	}{
		"nothing happened":        {func(w *world) {}, 0},
		"another agent":           {func(w *world) { w.restartAgent() }, 1},
		"requested by annotation": {func(w *world) { w.annotate(v1alpha1.AnnotationProve, "now") }, 1},
		"another machine": {func(w *world) {
			w.machines.Kill(testID)
			w.r.view.Invalidate(testID)
		}, 1},
		"another bundle": {func(w *world) { w.bundles.Remove(w.ownerOf(testID)) }, 1},
		"other ports": {func(w *world) {
			w.allowed = []string{"foreign*"}
			w.bundles.AddImage("foreign:1", 8888, 9100)
			w.restartAgent()
			w.update(demoKey, func(b *v1alpha1.Bottle) {
				b.Spec.Bundle = &v1alpha1.Bundle{Image: ptr.To("foreign:1"), Ports: []int32{8888, 9100}}
			})
		}, 1},
		"other egress rules": {func(w *world) {
			w.update(demoKey, func(b *v1alpha1.Bottle) {
				b.Spec.Egress = &v1alpha1.Egress{Allow: []v1alpha1.EgressRule{"example.com"}}
			})
		}, 0},
		"a canary was hit from the node": {func(w *world) {
			w.clock.Step(2 * time.Minute)
			w.enforcer.RecordHit(host.CanaryHit{Interface: "lo", Remote: netip.MustParseAddrPort("127.0.0.1:1"), Local: netip.MustParseAddrPort("127.0.0.1:4711")})
		}, 1},
		"a canary was hit again and again": {func(w *world) {
			w.clock.Step(2 * time.Minute)
			for range 5 {
				w.enforcer.RecordHit(host.CanaryHit{Interface: "lo", Remote: netip.MustParseAddrPort("127.0.0.1:1"), Local: netip.MustParseAddrPort("127.0.0.1:4711")})
				w.settle(demoKey)
			}
		}, 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := running(t)
			before := w.guest.count()
			tt.change(w)
			for range 3 {
				w.settle(demoKey)
			}
			if got := w.guest.count() - before; got != tt.proofs {
				t.Errorf("further proofs: got %d, want %d", got, tt.proofs)
			}
			w.wantCond(demoKey, v1alpha1.ConditionEgressEnforced, "True/HostWall")
		})
	}
}

// A proof stands while a restarted agent repeats it, and is replaced if the new
// result differs.
func TestARestartedAgentRepeatsTheProof(t *testing.T) {
	w := running(t)
	w.api.reset()
	w.restartAgent()
	if _, err := w.r.Reconcile(t.Context(), ctrl.Request{NamespacedName: demoKey}); err != nil {
		t.Fatal(err)
	}
	w.wantCond(demoKey, v1alpha1.ConditionEgressEnforced, "True/HostWall")
	w.settle(demoKey)
	if got := w.api.log(); len(got) != 0 {
		t.Errorf("API writes of the restarted agent: got %q, want none", got)
	}
	w.guest.set(liar)
	w.restartAgent()
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionEgressEnforced, "Unknown/ProofNotObserved")
	w.guest.set(honest)
	w.clock.Step(5 * time.Minute)
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionEgressEnforced, "True/HostWall")
}

func TestFailedProofsAreRetriedWithGrowingPauses(t *testing.T) {
	w := newWorld(t, demo().Obj())
	w.guest.set(mute)
	w.settle(demoKey)
	for _, want := range []time.Duration{20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 5 * time.Minute, 5 * time.Minute} {
		res, err := w.pass(demoKey)
		if err != nil {
			t.Fatal(err)
		}
		if res.RequeueAfter != want {
			t.Errorf("pause: got %s, want %s", res.RequeueAfter, want)
		}
		w.clock.Step(res.RequeueAfter)
		if _, err := w.pass(demoKey); err != nil { // starts the next
			t.Fatal(err)
		}
	}
	if got := w.guest.count(); got > 12 {
		t.Errorf("proofs: got %d, want at most 12", got)
	}
	w.guest.set(honest)
	w.annotate(v1alpha1.AnnotationProve, "now")
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionEgressEnforced, "True/HostWall")
}

func TestAnAgentThatDoesNotRequireProofs(t *testing.T) {
	for does, want := range map[conduct]string{mute: "True/Unproven", liar: "False/ProofNotObserved", honest: "True/Ready", hitting: "False/LeakDetected"} {
		t.Run(string(does), func(t *testing.T) {
			w := newWorld(t, demo().Obj())
			w.allowUnproven = true
			w.restartAgent()
			w.guest.set(does)
			w.settle(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionReady, want)
		})
	}
}

// A proof is valid only if the wall and the machine are intact before and after
// it.
func TestNoProofBehindABrokenWall(t *testing.T) {
	w := newWorld(t, demo().Obj())
	w.machines.OnExec(func(name string, req host.ExecRequest) (int, error) {
		w.walls.Break(w.ownerOf(name), host.WallFault{What: "the default route is there"})
		return w.guest.exec(name, req)
	})
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionEgressEnforced, "Unknown/Error")
	if got := w.message(demoKey, v1alpha1.ConditionEgressEnforced); !strings.Contains(got, "default route") {
		t.Errorf("message: got %q, want the problem named", got)
	}
}

func TestADenialFromBeforeAProofIsNotEvidence(t *testing.T) {
	w := newWorld(t, demo().Obj())
	w.settle(demoKey)
	w.machines.AddDenials(testID, host.Denial{Time: w.clock.Now(), Dest: netip.MustParseAddrPort("192.168.44.1:4711")})
	w.clock.Step(time.Minute)
	w.guest.set(liar)
	w.annotate(v1alpha1.AnnotationProve, "now")
	w.settle(demoKey)
	if got := w.message(demoKey, v1alpha1.ConditionEgressEnforced); !strings.Contains(got, "gateway") {
		t.Errorf("message: got %q, want it to name the gateway as not tried", got)
	}
}

func TestProofErrors(t *testing.T) {
	for _, call := range []string{"Drops", "Denials", "ForgetDrops"} {
		t.Run(call, func(t *testing.T) {
			w := newWorld(t, demo().Obj())
			w.faults.Fail(call, hosttest.Before, hosttest.Always, errors.New("no answer"))
			w.settle(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionReady, "False/Error")
			w.faults.Heal()
			w.clock.Step(5 * time.Minute)
			w.settle(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
		})
	}
}
