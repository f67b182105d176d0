// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"testing"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
)

func TestStopped(t *testing.T) {
	w := running(t)
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "False/Stopping")
	w.wantCond(demoKey, v1alpha1.ConditionReady, "False/Stopping")
	w.settle(demoKey)
	for typ, want := range map[string]string{
		"NetworkReady": "True/Ready", "SmolfileReady": "True/Ready", "BundleReady": "False/Stopped",
		"MachineReady": "False/Stopped", "EgressEnforced": "Unknown/Stopped", "Ready": "True/Stopped",
		"Reconciling": "", "Stalled": "",
	} {
		w.wantCond(demoKey, typ, want)
	}
	b := w.bottle(demoKey)
	if *b.Status.ObservedGeneration != b.Generation {
		t.Errorf("observedGeneration: got %d, want %d", *b.Status.ObservedGeneration, b.Generation)
	}
	if b.Status.Machine.PID != nil || *b.Status.Machine.Restarts != 0 || b.Status.Machine.LastLoss != nil {
		t.Errorf("status.machine: got %+v, want no pid, restart or loss", b.Status.Machine)
	}
	if m, _, _ := w.machines.Get(testID); m.State != host.MachineStopped {
		t.Errorf("machine: got %s, want it stopped", m.State)
	}
	if w.bundles.All()[testID].Running {
		t.Errorf("bundle: got it running, want it stopped")
	}
	if len(w.networks.All()) != 1 {
		t.Errorf("networks: got %v, want the Bottle's to stay", w.networks.All())
	}
	before := w.nodeState()
	w.api.reset()
	w.faults.ResetCalls()
	w.events()
	w.settle(demoKey)
	w.wantQuiet(before)

	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateRunning })
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "True/MachineRunning")
	if st := w.bottle(demoKey).Status.Machine; *st.Restarts != 0 {
		t.Errorf("restarts: got %d, want 0: the stop was requested", *st.Restarts)
	}
}

func TestStoppedFromTheStart(t *testing.T) {
	w := newWorld(t, demo().Stopped().Obj())
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Stopped")
	if got := w.machines.Names(); len(got) != 0 {
		t.Errorf("machines: got %v, want none", got)
	}
}

func TestNoOtherProblemKeepsAMachineRunning(t *testing.T) {
	for name, breakIt := range map[string]func(w *world){
		"docker is down":   func(w *world) { w.networks.Down() },
		"a Secret is gone": func(w *world) { w.refs.data = nil },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, demo().EnvFromSecret("T", "s", "k").Obj())
			w.refs.put("secrets", "s", "k", "v")
			w.settle(demoKey)
			breakIt(w)
			w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
			for range 3 {
				if _, err := w.pass(demoKey); err != nil {
					t.Fatal(err)
				}
			}
			if m, _, _ := w.machines.Get(testID); m.State != host.MachineStopped {
				t.Errorf("machine: got %s, want it stopped", m.State)
			}
			w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Stopped")
		})
	}
}

func TestStoppedIsNotReportedWithoutAnObservation(t *testing.T) {
	w := running(t)
	w.faults.Fail("ListMachines", hosttest.Before, hosttest.Always, host.ErrUnavailable)
	w.r.view.Invalidate(testID)
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	w.wantCond(demoKey, v1alpha1.ConditionReady, "False/NodeNotReady")
}
