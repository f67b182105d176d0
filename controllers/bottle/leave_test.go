// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
)

func evict(b *v1alpha1.Bottle) {
	meta.SetStatusCondition(&b.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionScheduled,
		Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonEvicted, Message: "drained"})
}

func TestEvicted(t *testing.T) {
	w := running(t)
	w.update(demoKey, evict)
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	w.wantEmpty()
	b := w.bottle(demoKey)
	want := v1alpha1.BottleStatus{Resources: b.Status.Resources, Conditions: b.Status.Conditions}
	if d := cmp.Diff(want, b.Status); d != "" {
		t.Errorf("status (-want +got):\n%s", d)
	}
	if b.Status.Resources == nil || len(b.Status.Conditions) != 2 || condOf(b, "Scheduled") != "False/Evicted" || condOf(b, "Ready") != "False/Evicted" {
		t.Errorf("status: got %+v, want what the manager wrote, and Ready with the same reason", b.Status)
	}
	if slices.Contains(b.Finalizers, v1alpha1.FinalizerNode) {
		t.Errorf("finalizers: got %v, want the agent's gone", b.Finalizers)
	}
	if got := w.api.log(); len(got) != 2 {
		t.Errorf("API writes: got %v, want the finalizer and one patch of the status", got)
	}

	// The Bottle may come back.
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Status = *demo().Status.DeepCopy() })
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "True/MachineRunning")
}

func TestAnEvictionThatConflictsIsRetried(t *testing.T) {
	w := running(t)
	w.update(demoKey, evict)
	// Somebody writes to the Bottle after the pass has read it.
	once := false
	w.api.fail = func(write string) error {
		if write == "patch status" && !once {
			once = true
			b := w.bottle(demoKey)
			b.Labels = map[string]string{"a": "b"}
			return w.api.Update(t.Context(), b)
		}
		return nil
	}
	res, err := w.pass(demoKey)
	if err != nil || res.RequeueAfter <= 0 {
		t.Errorf("pass: got %v %v, want another one soon and no error", res, err)
	}
	if got := w.bottle(demoKey).Status.NodeName; got == nil {
		t.Errorf("nodeName: got none, want it kept until the agent has seen the newer object")
	}
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	if got := w.bottle(demoKey).Status.NodeName; got != nil {
		t.Errorf("nodeName: got %s, want none", *got)
	}
}

func TestLeavingTreatsForeignObjectsAsAbsent(t *testing.T) {
	w := newWorld(t, demo().Finalizer(v1alpha1.FinalizerNode).Obj())
	w.networks.PutAs(testID, host.Network{Owner: otherOwner, Subnet: firstChoice})
	w.bundles.PutAs(testID, host.Bundle{Owner: otherOwner})
	w.machines.Add(host.Machine{Name: testID, UID: otherOwner.UID, State: host.MachineRunning})
	if err := w.api.Delete(t.Context(), w.bottle(demoKey)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	if err := w.api.Get(t.Context(), demoKey, &v1alpha1.Bottle{}); err == nil {
		t.Errorf("bottle: got it, want it gone")
	}
	if len(w.networks.All()) != 1 || len(w.bundles.All()) != 1 || len(w.machines.Names()) != 1 {
		t.Errorf("foreign objects: got %v, want all of them to stay", w.nodeState())
	}
}

func TestLeavingWaitsAndReportsIt(t *testing.T) {
	tests := map[string]struct {
		change func(w *world)
		want   string
	}{
		"deleted": {func(w *world) {
			if err := w.api.Delete(w.t.Context(), w.bottle(demoKey)); err != nil {
				w.t.Fatal(err)
			}
		}, "False/Terminating"},
		"evicted": {func(w *world) { w.update(demoKey, evict) }, "False/Evicted"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := running(t)
			w.networks.Down()
			tt.change(w)
			for range 2 {
				if _, err := w.pass(demoKey); err != nil {
					t.Fatal(err)
				}
			}
			w.wantCond(demoKey, v1alpha1.ConditionReady, tt.want)
			b := w.bottle(demoKey)
			if !slices.Contains(b.Finalizers, v1alpha1.FinalizerNode) || b.Status.NodeName == nil {
				t.Errorf("bottle: got finalizers %v, node %v, want both kept", b.Finalizers, b.Status.NodeName)
			}
			w.networks.Up()
			if _, err := w.pass(demoKey); err != nil {
				t.Fatal(err)
			}
			w.wantEmpty()
		})
	}
}

func TestLeavingWithoutSmolvm(t *testing.T) {
	w := newWorld(t, demo().Finalizer(v1alpha1.FinalizerNode).Obj())
	w.faults.Fail("ListMachines", hosttest.Before, hosttest.Always, host.ErrUnavailable)
	if err := w.api.Delete(t.Context(), w.bottle(demoKey)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	if err := w.api.Get(t.Context(), demoKey, &v1alpha1.Bottle{}); err == nil {
		t.Errorf("bottle: got it, want it gone: it never had a machine")
	}

	w = running(t)
	w.faults.Fail("ListMachines", hosttest.Before, hosttest.Always, host.ErrUnavailable)
	if err := w.api.Delete(t.Context(), w.bottle(demoKey)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	if got := w.bottle(demoKey).Finalizers; len(got) == 0 {
		t.Errorf("finalizers: got none, want the Bottle kept while its machine may run")
	}
}

func TestABottleWithAnInvalidSpecCanBeDeleted(t *testing.T) {
	w := running(t)
	w.update(demoKey, func(b *v1alpha1.Bottle) {
		b.Spec.Image, b.Spec.Env = new("::::"), []v1alpha1.EnvVar{{Name: "=", Value: new("\x00")}}
	})
	w.remove()
	w.wantEmpty()
}

func TestABottleOnAnotherNodeIsIgnored(t *testing.T) {
	b := demo()
	b.Status.NodeName = new("node-b")
	w := newWorld(t, b.Obj())
	if _, err := w.r.Reconcile(t.Context(), ctrl.Request{NamespacedName: demoKey}); err != nil {
		t.Fatal(err)
	}
	if calls := w.faults.Calls(); len(calls) != 0 || len(w.api.log()) != 0 {
		t.Errorf("got calls %v, writes %v, want none", calls, w.api.log())
	}
}

// The Bottle has moved to another node, and the agent does not know it yet.
func TestAStaleAgentDoesNotOverwriteItsSuccessorsStatus(t *testing.T) {
	w := running(t)
	stale := w.bottle(demoKey)
	w.update(demoKey, func(b *v1alpha1.Bottle) {
		b.Status = v1alpha1.BottleStatus{NodeName: new("node-b")}
	})
	s, err := w.r.newScope(stale)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.r.status.write(t.Context(), s, nil); err == nil {
		t.Errorf("write: got nil, want a conflict")
	}
	if got := w.bottle(demoKey).Status; got.Machine != nil || got.Network != nil {
		t.Errorf("status: got %+v, want the successor's", got)
	}
}

// The cache does not have the agent's own last write yet.
func TestAViewWithoutTheLastWriteIsNotWritten(t *testing.T) {
	w := newWorld(t, demo().Obj())
	stale := w.bottle(demoKey)
	w.settle(demoKey)
	w.api.reset()
	s, err := w.r.newScope(stale)
	if err != nil {
		t.Fatal(err)
	}
	conditions := []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonProving}}
	if err := w.r.status.write(t.Context(), s, conditions); !apierrors.IsConflict(err) {
		t.Errorf("write: got %v, want a conflict, so that the pass is repeated", err)
	}
	if writes := w.api.log(); len(writes) != 0 {
		t.Errorf("writes: got %v, want none that the API server would refuse", writes)
	}
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
}

// The cache still contains a Bottle that is gone.
func TestALatePassOverADeletedBottle(t *testing.T) {
	w := running(t)
	if err := w.api.Delete(t.Context(), w.bottle(demoKey)); err != nil {
		t.Fatal(err)
	}
	stale := w.bottle(demoKey)
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	w.api.reset()
	w.faults.ResetCalls()
	s, err := w.r.newScope(stale)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.r.leave(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if len(w.faults.Calls()) != 0 || len(w.api.log()) != 0 {
		t.Errorf("late pass: got calls %v, writes %v, want none", w.faults.Calls(), w.api.log())
	}
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	if w.r.departed.Len() != 0 {
		t.Errorf("remembered: got %d, want none once the Bottle is gone from the cache", w.r.departed.Len())
	}
}

// The agent may die after smolvm has forgotten the machine, but before its disks
// are deleted.
func TestAnInterruptedDeletionIsCompleted(t *testing.T) {
	t.Run("by the next pass", func(t *testing.T) {
		w := running(t)
		if err := w.api.Delete(t.Context(), w.bottle(demoKey)); err != nil {
			t.Fatal(err)
		}
		w.faults.Fail("DeleteMachine", hosttest.Half, 1, errors.New("killed"))
		if _, err := w.pass(demoKey); err == nil {
			t.Error("the interrupted pass: got nil, want an error")
		}
		if got := w.machines.Leftovers(); len(got) != 1 || len(w.machines.Names()) != 0 {
			t.Fatalf("after the interruption: got data %v and machines %v, want only data", got, w.machines.Names())
		}
		w.restartAgent()
		if _, err := w.pass(demoKey); err != nil {
			t.Fatal(err)
		}
		w.wantEmpty()
	})
	t.Run("by the sweep", func(t *testing.T) {
		w, s := abandoned(t)
		w.faults.Fail("DeleteMachine", hosttest.Half, 1, errors.New("killed"))
		for range 5 {
			if err := w.sweep(s); err != nil {
				t.Fatal(err)
			}
			w.clock.Step(2 * grace)
		}
		if got := w.swept()["orphans_removed_total failed"]; got != 1 {
			t.Errorf("failed removals: got %v, want 1", got)
		}
		w.wantEmpty()
	})
}
