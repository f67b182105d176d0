// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/internal/machinesize"
)

func TestAReturnedAgentReplacesTheManagersConditions(t *testing.T) {
	w := running(t)
	before := w.bottle(demoKey)
	w.update(demoKey, func(b *v1alpha1.Bottle) {
		for _, typ := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionEgressEnforced} {
			meta.SetStatusCondition(&b.Status.Conditions, metav1.Condition{Type: typ, Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonAgentLost})
		}
	})
	if !desired.Changed(event.UpdateEvent{ObjectOld: before, ObjectNew: w.bottle(demoKey)}) {
		t.Errorf("the manager's conditions: got no change, want one")
	}
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	w.wantCond(demoKey, v1alpha1.ConditionEgressEnforced, "True/HostWall")
}

func TestTheAgentsOwnWritesAreNotChanges(t *testing.T) {
	w := newWorld(t, demo().Finalizer(v1alpha1.FinalizerNode).Obj())
	before := w.bottle(demoKey)
	w.settle(demoKey)
	after := w.bottle(demoKey)
	if desired.Changed(event.UpdateEvent{ObjectOld: before, ObjectNew: after}) {
		t.Errorf("the agent's own status: got a change, want none")
	}
	for name, change := range map[string]func(*v1alpha1.Bottle){
		"generation":  func(b *v1alpha1.Bottle) { b.Generation++ },
		"deletion":    func(b *v1alpha1.Bottle) { b.DeletionTimestamp = &metav1.Time{Time: epoch} },
		"finalizer":   func(b *v1alpha1.Bottle) { b.Finalizers = nil },
		"restartedAt": func(b *v1alpha1.Bottle) { b.Annotations = map[string]string{v1alpha1.AnnotationRestartedAt: "x"} },
		"recreatedAt": func(b *v1alpha1.Bottle) { b.Annotations = map[string]string{v1alpha1.AnnotationRecreatedAt: "x"} },
		"eviction":    evict,
		"node":        func(b *v1alpha1.Bottle) { b.Status.NodeName = new("node-b") },
		"bundle": func(b *v1alpha1.Bottle) {
			b.Status.Resources.Bundle = machinesize.Bundle{CPUMillis: 1, MemoryBytes: 2}.Status()
		},
		"resources": func(b *v1alpha1.Bottle) { b.Status.Resources.CPUs = 9 },
	} {
		changed := after.DeepCopy()
		change(changed)
		if !desired.Changed(event.UpdateEvent{ObjectOld: after, ObjectNew: changed}) {
			t.Errorf("%s: got no change, want one", name)
		}
	}
}

func TestTransitionTimes(t *testing.T) {
	w := newWorld(t, demo().Obj())
	w.networks.Down()
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	times := func() map[string]time.Time {
		out := map[string]time.Time{}
		for _, c := range w.bottle(demoKey).Status.Conditions {
			out[c.Type] = c.LastTransitionTime.UTC()
		}
		return out
	}
	first := times()
	w.clock.Step(time.Hour)
	w.facts.Break("docker", "another message")
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(first, times()); d != "" {
		t.Errorf("after another message (-want +got):\n%s", d)
	}
	w.networks.Up()
	w.facts.Break("docker", "")
	w.clock.Step(time.Hour)
	changed := w.clock.Now()
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	if got := times()[v1alpha1.ConditionNetworkReady]; !got.Equal(changed) {
		t.Errorf("after a change: got %s, want %s", got, changed)
	}
	if got := times()[v1alpha1.ConditionReady]; !got.Equal(first[v1alpha1.ConditionReady]) {
		t.Errorf("Ready, which stayed False: got %s, want %s", got, first[v1alpha1.ConditionReady])
	}
}

// With some releases of smolvm, an escape from the guest gives root on the node.
func TestAVMMThatRunsAsRootIsReported(t *testing.T) {
	const running = "the machine is running and answers"
	for version, tt := range map[string]struct {
		ownUser bool
		want    string
	}{
		"1.2.4": {false, running + "; its VMM runs as root, because smolvm 1.2.4 is older than 1.2.5"},
		"1.2.5": {true, running},
	} {
		t.Run(version, func(t *testing.T) {
			w := newWorld(t, demo().Obj())
			w.allowUnproven = true
			v := hosttest.ReferenceVersion
			v.Version, v.OwnUser = version, tt.ownUser
			w.machines.SetVersion(v)
			w.restartAgent()
			w.settle(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "True/MachineRunning")
			if got := w.message(demoKey, v1alpha1.ConditionMachineReady); got != tt.want {
				t.Errorf("message: got %q, want %q", got, tt.want)
			}
			w.api.reset()
			w.settle(demoKey)
			if got := w.api.log(); len(got) != 0 {
				t.Errorf("writes of a pass that changes nothing: got %v, want none", got)
			}
		})
	}
}
