// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
)

// narrow runs both controllers of package narrow once.
func (w *world) narrow() {
	w.t.Helper()
	for _, r := range []reconcile.Reconciler{w.r.reach, w.r.halt} {
		if _, err := r.Reconcile(w.t.Context(), ctrl.Request{NamespacedName: demoKey}); err != nil {
			w.t.Errorf("%T: got %v, want nil", r, err)
		}
	}
}

// rulesInForce returns the rules in the file that the bundle reads.
func (w *world) rulesInForce() []string {
	w.t.Helper()
	folder, err := w.r.State.Folder(testUID)
	if err != nil {
		w.t.Fatal(err)
	}
	data, err := folder.Rules()
	if err != nil {
		w.t.Fatal(err)
	}
	set, err := egress.DecodeFile(bytes.NewReader(data))
	if err != nil {
		w.t.Fatal(err)
	}
	out := []string{}
	for _, r := range set.Rules() {
		out = append(out, r.String())
	}
	return out
}

const foreignBundle = "ghcr.io/org/bundle:1"

// What a user removes is no longer in force, even if a problem ends every pass
// over the Bottle early.
func TestNarrowingWaitsForNothing(t *testing.T) {
	faults := map[string]func(w *world){
		"the Secret of a variable is deleted": func(w *world) {
			w.refs.mu.Lock()
			defer w.refs.mu.Unlock()
			clear(w.refs.data)
		},
		"dockerd does not answer": func(w *world) { w.networks.Down() },
		"smolvm does not answer": func(w *world) {
			for _, call := range []string{"Version", "ListMachines", "StopMachine"} {
				w.faults.Fail(call, hosttest.Before, hosttest.Always, host.ErrUnavailable)
			}
		},
		"a new rule is invalid": func(w *world) {
			w.update(demoKey, func(b *v1alpha1.Bottle) {
				b.Spec.Egress.Allow = append(b.Spec.Egress.Allow, "http://no.example.com/path")
			})
		},
	}
	for name, arrange := range faults {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, demo().EnvFromSecret("TOKEN", "creds", "token").Allow("a.example.com", "b.example.com").Obj())
			w.refs.put("secrets", "creds", "token", "hush")
			w.settle(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
			arrange(w)
			w.update(demoKey, func(b *v1alpha1.Bottle) {
				b.Spec.Egress.Allow = slices.DeleteFunc(b.Spec.Egress.Allow, func(r v1alpha1.EgressRule) bool { return r == "b.example.com" })
				b.Spec.Egress.Allow = append(b.Spec.Egress.Allow, "c.example.com")
			})
			w.narrow()
			if got, want := w.rulesInForce(), []string{"a.example.com:443"}; !slices.Equal(got, want) {
				t.Errorf("rules in force: got %q, want %q", got, want)
			}
			w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
			w.narrow()
			w.wantNoVMM()
		})
	}
}

func (w *world) wantNoVMM() {
	w.t.Helper()
	vmms, err := w.machines.VMMs(w.t.Context(), []string{testID})
	if err != nil || len(vmms) != 0 {
		w.t.Errorf("VMMs: got %v, %v, want none", vmms, err)
	}
}

func TestRemovedPortsAreClosedWhileDockerIsAway(t *testing.T) {
	w := newWorld(t, demo().BundleImage(foreignBundle).BundlePorts(8888, 9100).Obj())
	w.allowed = []string{"ghcr.io/org/*"}
	w.restartAgent()
	w.bundles.AddImage(foreignBundle, 8888, 9100)
	w.settle(demoKey)
	w.networks.Down()
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.Bundle.Ports = []int32{8888, 9418} })
	w.narrow()
	spec, _, _ := w.walls.Get(ownerOfDemo())
	if want := []int32{8888}; !slices.Equal(spec.Ports, want) {
		t.Errorf("open ports: got %v, want %v", spec.Ports, want)
	}
}

// Another bundle decides by other rules. Until it runs, the guest must not reach
// the old one.
func TestAnotherBundleImageClosesThePortsUntilItRuns(t *testing.T) {
	w := newWorld(t, demo().BundleImage(foreignBundle).BundlePorts(8888).Obj())
	w.allowed = []string{"ghcr.io/org/*"}
	w.restartAgent()
	w.bundles.AddImage(foreignBundle, 8888)
	w.settle(demoKey)
	w.networks.Down()
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.Bundle = nil })
	w.narrow()
	if spec, _, _ := w.walls.Get(ownerOfDemo()); len(spec.Ports) != 0 {
		t.Errorf("open ports while docker is away: got %v, want none", spec.Ports)
	}
	w.networks.Up()
	w.settle(demoKey)
	w.narrow()
	if spec, _, _ := w.walls.Get(ownerOfDemo()); !slices.Equal(spec.Ports, []int32{8888}) {
		t.Errorf("open ports beside the new bundle: got %v, want 8888", spec.Ports)
	}
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
}

// The machine stops immediately, whatever the reason.
func TestLeavingStopsTheMachineImmediately(t *testing.T) {
	tests := map[string]func(w *world){
		"deleted": func(w *world) {
			if err := w.api.Delete(w.t.Context(), w.bottle(demoKey)); err != nil {
				w.t.Fatal(err)
			}
		},
		"evicted": func(w *world) {
			w.update(demoKey, func(b *v1alpha1.Bottle) {
				meta.SetStatusCondition(&b.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionScheduled, Status: "False", Reason: v1alpha1.ReasonEvicted, Message: "evicted"})
			})
		},
		"stopped": func(w *world) {
			w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
		},
	}
	for name, leave := range tests {
		t.Run(name, func(t *testing.T) {
			w := running(t)
			w.networks.Down()
			leave(w)
			w.narrow()
			w.wantNoVMM()
			w.faults.ResetCalls()
			w.narrow()
			if got := w.writingCalls(); len(got) != 0 {
				t.Errorf("calls once it is down: got %q, want none", got)
			}
		})
	}
}

// A start that is under way is canceled, and a pass that read the old spec does
// not start the machine again.
func TestAnOldPassDoesNotStartAStoppedMachine(t *testing.T) {
	w := newWorld(t, demo().EnvFromSecret("TOKEN", "creds", "token").Obj())
	w.refs.put("secrets", "creds", "token", "hush")
	w.settle(demoKey)
	w.machines.Kill(testID)
	w.r.view.Invalidate(testID)
	starts := w.machines.Starts(testID)
	// The pass has read the old Bottle, and is in an early step.
	w.refs.onGet = func() {
		w.refs.onGet = nil
		w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
		w.narrow()
	}
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	if got := w.machines.Starts(testID); got != starts {
		t.Errorf("starts: got %d, want %d, because the Bottle must be stopped", got, starts)
	}
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Stopped")
	w.wantNoVMM()
}

func TestNarrowIgnoresBottlesOnOtherNodes(t *testing.T) {
	w := running(t)
	w.update(demoKey, func(b *v1alpha1.Bottle) {
		b.Status.NodeName, b.Spec.DesiredState = ptr.To("node-b"), v1alpha1.DesiredStateStopped
	})
	w.narrow()
	if m, _, _ := w.machines.Get(testID); m.State != host.MachineRunning {
		t.Errorf("machine: got %s, want it left alone", m.State)
	}
}

// If smolvm cannot stop a machine, or hangs, the machine is killed.
func TestAMachineThatCannotBeStoppedIsKilled(t *testing.T) {
	for name, err := range map[string]error{"refused": errors.New("database is locked"), "hanging": context.DeadlineExceeded} {
		t.Run(name, func(t *testing.T) {
			w := running(t)
			w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
			w.faults.Fail("StopMachine", hosttest.Before, hosttest.Always, err)
			w.narrow()
			w.wantNoVMM()
		})
	}
}

// hookedCreate calls during while a machine is being created.
type hookedCreate struct {
	host.Machines
	during func()
}

func (h *hookedCreate) CreateMachine(ctx context.Context, spec host.MachineSpec) error {
	err := h.Machines.CreateMachine(ctx, spec)
	h.during()
	return err
}

func TestAMachineStoppedDuringItsCreationIsNotStarted(t *testing.T) {
	w := newWorld(t, demo().Obj())
	w.change(func(o *Options) {
		o.Machines = &hookedCreate{w.machines, func() {
			w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
			w.narrow()
		}}
	})
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	if got := w.machines.Starts(testID); got != 0 {
		t.Errorf("starts: got %d, want none", got)
	}
}

func TestSomeoneElsesMachineIsNotStopped(t *testing.T) {
	w := newWorld(t, demo().Obj())
	w.machines.Add(host.Machine{Name: testID, UID: "other", State: host.MachineRunning, PID: 7, StartTime: epoch})
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
	w.narrow()
	if m, _, _ := w.machines.Get(testID); m.State != host.MachineRunning {
		t.Errorf("machine: got %s, want it left alone", m.State)
	}
}

// A requested stop is not a loss, even if the Bottle must run again before a pass
// has seen it stopped.
func TestAStopIsNotALoss(t *testing.T) {
	w := running(t)
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
	w.narrow()
	w.r.view.Invalidate(testID)
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateRunning })
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	if st := w.bottle(demoKey).Status.Machine; *st.Restarts != 0 || st.LastLoss != nil {
		t.Errorf("machine: got %d restarts and the loss %v, want neither", *st.Restarts, st.LastLoss)
	}
}
