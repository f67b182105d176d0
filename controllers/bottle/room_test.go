// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
)

// nodeFor is a Node with this many CPUs.
func nodeFor(cpus string) *corev1.Node {
	n := &corev1.Node{}
	n.Name = testNode
	n.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpus)}
	return n
}

// The placeholder Pod of a running Bottle ends, and the scheduler places a second Bottle on
// the same node, which has room for only one. The second Bottle waits until the first has
// left, even if the agent restarts or the second Bottle's spec changes.
func TestTwoBottlesOnANodeForOne(t *testing.T) {
	late := placed(builders.MakeBottle("late").UID(otherOwner.UID)).Obj()
	w := newWorld(t, demo().Obj(), late, nodeFor("3"))
	lateKey := key(late)
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")

	wantWaiting := func() {
		t.Helper()
		if res, err := w.pass(lateKey); err != nil || res.RequeueAfter <= 0 {
			t.Errorf("next pass: got %v, %v, want one", res, err)
		}
		w.wantCond(lateKey, v1alpha1.ConditionMachineReady, "False/NodeFull")
		w.wantCond(lateKey, v1alpha1.ConditionReady, "False/NodeFull")
		if got := w.message(lateKey, v1alpha1.ConditionMachineReady); !strings.Contains(got, "2 of cpu, but 2 of 3 are in use") {
			t.Errorf("message: got %q, want it to say what the node lacks", got)
		}
		for _, name := range w.machines.Names() {
			if name != testID {
				t.Errorf("got machine %s, want only %s", name, testID)
			}
		}
	}
	wantWaiting()
	w.restartAgent()
	wantWaiting()
	w.update(lateKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
	w.settle(lateKey)
	w.wantCond(lateKey, v1alpha1.ConditionReady, "True/Stopped")
	w.update(lateKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateRunning })
	wantWaiting()

	// The first one needs no room anew: its machine ends and starts again.
	w.restartAgent()
	if err := w.machines.StopMachine(t.Context(), testID); err != nil {
		t.Fatal(err)
	}
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "True/MachineRunning")
	wantWaiting()

	w.update(demoKey, evict)
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	w.settle(lateKey)
	w.wantCond(lateKey, v1alpha1.ConditionReady, "True/Ready")
}

// The machine of a Bottle is not created while its own placeholder Pod has ended: the
// kubelet may have rejected it because the node is full of other Pods.
func TestPlaceholderEndedBeforeTheMachine(t *testing.T) {
	w := newWorld(t, demo().Obj(), nodeFor("100"))
	ended := func(reason string) {
		w.update(demoKey, func(b *v1alpha1.Bottle) { b.Status.Conditions[0].Reason = reason })
	}
	ended(v1alpha1.ReasonPlaceholderEnded)
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "False/NodeFull")
	if names := w.machines.Names(); len(names) > 0 {
		t.Errorf("machines: got %v, want none", names)
	}
	ended(v1alpha1.ReasonScheduled)
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	// From now on, the end of the placeholder changes nothing.
	ended(v1alpha1.ReasonPlaceholderEnded)
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
}
