// SPDX-License-Identifier: Apache-2.0

package placement_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
)

func resourceOf(s string) *resource.Quantity { q := resource.MustParse(s); return &q }

// The condition has the scheduler's message, and a changed spec gets a new Pod.
func TestUnschedulable(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	w.create(builders.MakeBottle("a").NodeSelector("disk", "none").Obj())
	pod := w.pod("a")
	want := "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. preemption: 0/2 nodes are available."
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: want}}
	w.must(w.c.Status().Update(t.Context(), pod))
	w.waitScheduled("a", "False Unschedulable")
	b := w.bottle("a")
	if got := message(b, v1alpha1.ConditionScheduled); got != want {
		t.Errorf("got message %q, want the scheduler's %q", got, want)
	}
	if got := condition(b, v1alpha1.ConditionReady); got != "False Unschedulable" {
		t.Errorf("got Ready %s, want False Unschedulable", got)
	}
	b.Spec.Scheduling = nil
	w.must(w.c.Update(t.Context(), b))
	w.waitScheduled("a", "False Pending")
	if next := w.pod("a"); next.UID == pod.UID || len(next.Spec.NodeSelector) > 0 {
		t.Errorf("got Pod %s with selector %v, want a new one without a selector", next.UID, next.Spec.NodeSelector)
	}
}

// The condition has the API server's reason for refusing the Pod, and the manager
// tries again.
func TestRefusedPlaceholder(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	quota := &corev1.ResourceQuota{}
	quota.Namespace, quota.Name = w.ns, "q"
	quota.Spec.Hard = corev1.ResourceList{corev1.ResourceRequestsCPU: resource.MustParse("1")}
	w.must(w.c.Create(t.Context(), quota))
	quota.Status.Hard = quota.Spec.Hard
	quota.Status.Used = corev1.ResourceList{corev1.ResourceRequestsCPU: resource.MustParse("0")}
	w.must(w.c.Status().Update(t.Context(), quota))

	w.create(builders.MakeBottle("a").Obj())
	w.waitScheduled("a", "False PlaceholderRefused")
	b := w.bottle("a")
	for _, want := range []string{"exceeded quota: q", "requested: requests.cpu=2350m", "limited: requests.cpu=1"} {
		if got := message(b, v1alpha1.ConditionScheduled); !strings.Contains(got, want) {
			t.Errorf("got message %q, want %q in it", got, want)
		}
	}
	w.waitEvent("PlaceholderRefused")
	w.must(w.c.Delete(t.Context(), quota))
	w.waitScheduled("a", "False Pending")

	urgent := builders.MakeBottle("b").Obj()
	urgent.Spec.Scheduling = &v1alpha1.Scheduling{PriorityClassName: &w.ns}
	w.create(urgent)
	w.waitScheduled("b", "False PlaceholderRefused")
	if got := message(w.bottle("b"), v1alpha1.ConditionScheduled); !strings.Contains(got, "no PriorityClass with name "+w.ns) {
		t.Errorf("got message %q, want it to name the class", got)
	}
	class := &schedulingv1.PriorityClass{Value: 7}
	class.Name = w.ns
	w.must(w.c.Create(t.Context(), class))
	w.waitScheduled("b", "False Pending")
	if got := *w.pod("b").Spec.Priority; got != 7 {
		t.Errorf("got priority %d, want 7", got)
	}
}

// A Pod that has the placeholder's name but belongs to someone else is left
// alone.
func TestForeignPod(t *testing.T) {
	w := newWorld(t)
	b := w.create(builders.MakeBottle("a").Obj())
	foreign := &corev1.Pod{}
	foreign.Namespace, foreign.Name = w.ns, "bottle-a-"+string(b.UID)[:8]
	foreign.Spec.Containers = []corev1.Container{{Name: "c", Image: "x"}}
	w.must(w.c.Create(t.Context(), foreign))
	w.start(interceptor.Funcs{})
	w.waitScheduled("a", "False PlaceholderRefused")
	if got := message(w.bottle("a"), v1alpha1.ConditionScheduled); !strings.Contains(got, foreign.Name) {
		t.Errorf("got message %q, want it to name Pod %s", got, foreign.Name)
	}
	w.must(w.c.Delete(t.Context(), foreign, client.GracePeriodSeconds(0)))
	w.waitScheduled("a", "False Pending")
}

// A placeholder that lost the label that the manager watches gets it back.
func TestUnlabelledPlaceholder(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	w.create(builders.MakeBottle("a").Obj())
	w.waitScheduled("a", "False Pending")
	pod := w.pod("a")
	before := pod.DeepCopy()
	delete(pod.Labels, v1alpha1.LabelUID)
	w.must(w.c.Patch(t.Context(), pod, client.MergeFrom(before)))
	w.eventually(func() string {
		if pods := w.pods("a"); len(pods) != 1 || pods[0].UID != pod.UID || pods[0].Labels[v1alpha1.LabelUID] == "" {
			return "the label is not back"
		}
		return ""
	})
}

// A stopped Bottle without a node waits; one with a node keeps it.
func TestStopped(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	node, _ := w.node("a")
	w.create(builders.MakeBottle("a").Stopped().Obj())
	w.wait("a", v1alpha1.ConditionReady, "True Stopped")
	w.waitScheduled("a", "False Stopped")
	w.always(func() string {
		if len(w.pods("a")) > 0 {
			return "a stopped Bottle has a placeholder Pod"
		}
		return ""
	})
	w.desire("a", v1alpha1.DesiredStateRunning)
	w.waitScheduled("a", "False Pending")
	w.desire("a", v1alpha1.DesiredStateStopped) // before the scheduler binds the Pod
	w.waitScheduled("a", "False Stopped")
	w.eventually(func() string {
		if len(w.pods("a")) > 0 {
			return "the placeholder Pod is still there"
		}
		return ""
	})
	w.desire("a", v1alpha1.DesiredStateRunning)
	w.bind(w.pod("a"), node)
	w.waitScheduled("a", "True Scheduled")
	w.takeOver("a")
	w.desire("a", v1alpha1.DesiredStateStopped)
	w.always(func() string {
		b := w.bottle("a")
		if b.Status.NodeName == nil || condition(b, v1alpha1.ConditionScheduled) != "True Scheduled" || len(w.pods("a")) != 1 {
			return "the stopped Bottle lost its node"
		}
		return ""
	})
}

func (w *world) desire(name string, state v1alpha1.DesiredState) {
	w.Helper()
	b := w.bottle(name)
	before := b.DeepCopy()
	b.Spec.DesiredState = state
	w.must(w.c.Patch(w.Context(), b, client.MergeFrom(before)))
}

// TestNames places two Bottles with the same slug, and one whose name is too long
// for a label.
func TestNames(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	long := strings.Repeat("long-name.", 20) + "x"
	w.create(builders.MakeBottle("a").Slug("same").Obj())
	w.create(builders.MakeBottle("b").Slug("same").Obj())
	w.create(builders.MakeBottle(long).Slug("long").Obj())
	for _, name := range []string{"a", "b", long} {
		w.waitScheduled(name, "False Pending")
	}
	w.must(w.c.Delete(t.Context(), w.bottle(long)))
	w.eventually(func() string {
		list := &corev1.PodList{}
		w.must(w.c.List(t.Context(), list, client.InNamespace(w.ns), client.MatchingLabels{v1alpha1.LabelSlug: "long"}))
		if len(list.Items) > 0 {
			return "the placeholder of the long name is left"
		}
		return ""
	})
}

// closedGuard holds nothing until it is opened.
type closedGuard struct{ open atomic.Bool }

func (g *closedGuard) Hold(context.Context) error {
	if !g.open.Load() {
		return errors.New("the CRD of Bottles is being deleted")
	}
	return nil
}

// No placeholder exists before it is certain that the operator cannot be removed.
func TestNothingIsPlacedBeforeTheGuardHolds(t *testing.T) {
	w := newWorld(t)
	guard := &closedGuard{}
	w.options.Guard = guard
	w.start(interceptor.Funcs{})
	w.create(builders.MakeBottle("a").Obj())
	w.waitScheduled("a", "False PlaceholderRefused")
	if pods := w.pods("a"); len(pods) != 0 {
		t.Errorf("got %d Pods, want none", len(pods))
	}
	c := meta.FindStatusCondition(w.bottle("a").Status.Conditions, v1alpha1.ConditionScheduled)
	if !strings.Contains(c.Message, "is being deleted") {
		t.Errorf("got the message %q, want the guard's reason", c.Message)
	}
	guard.open.Store(true)
	w.waitScheduled("a", "False Pending")
}
