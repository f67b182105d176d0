// SPDX-License-Identifier: Apache-2.0

package placement_test

import (
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
)

// TestFinishedLife follows a Bottle that finishes, has its files copied, runs again,
// finishes and is deleted because of its time.
func TestFinishedLife(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	node, _ := w.node("a")
	w.placed(builders.MakeBottle("a").Obj(), node)
	w.takeOver("a")

	w.reportTrue("a", v1alpha1.ConditionFinished)
	w.released("a", node)

	w.reportTrue("a", v1alpha1.ConditionFinished, v1alpha1.ConditionFilesOpen)
	w.bookedAgain("a", node)
	w.reportTrue("a", v1alpha1.ConditionFinished)
	w.released("a", node)

	w.reportTrue("a")
	w.bookedAgain("a", node)

	b := w.bottle("a")
	before := b.DeepCopy()
	b.Spec.Lifetime = &v1alpha1.Lifetime{TTLSecondsAfterFinished: ptr.To(int32(1))}
	w.must(w.c.Patch(t.Context(), b, client.MergeFrom(before)))
	w.reportTrue("a", v1alpha1.ConditionFinished)
	w.eventually(func() string {
		b := w.bottle("a") // the agent's finalizer holds it
		if b.DeletionTimestamp.IsZero() {
			return "it is not being deleted"
		}
		return ""
	})
	w.tornDown("a")
	w.eventually(func() string {
		if err := w.c.Get(t.Context(), client.ObjectKey{Namespace: w.ns, Name: "a"}, &v1alpha1.Bottle{}); !apierrors.IsNotFound(err) {
			return "the Bottle is left"
		}
		return ""
	})
}

// released waits until nothing is booked for a finished Bottle, which stays on its node.
func (w *world) released(name, node string) {
	w.Helper()
	w.eventually(func() string {
		b := w.bottle(name)
		switch {
		case len(w.pods(name)) > 0:
			return "a placeholder Pod is left"
		case b.Status.Resources != nil:
			return "resources are booked"
		case ptr.Deref(b.Status.NodeName, "") != node:
			return "the Bottle left its node"
		case condition(b, v1alpha1.ConditionScheduled) != "True Released":
			return "got Scheduled " + condition(b, v1alpha1.ConditionScheduled)
		}
		return ""
	})
}

// bookedAgain binds the placeholder that a Bottle on its node needs again, and checks that
// nothing counts as booked before that.
func (w *world) bookedAgain(name, node string) {
	w.Helper()
	pod := w.pod(name)
	w.waitScheduled(name, "False Pending")
	if b := w.bottle(name); b.Status.Resources != nil || pod.Spec.NodeName != "" {
		w.Errorf("got resources %v and a Pod on node %q before kube-scheduler chose it", b.Status.Resources, pod.Spec.NodeName)
	}
	w.bind(pod, node)
	w.waitScheduled(name, "True Scheduled")
	if b := w.bottle(name); b.Status.Resources == nil || ptr.Deref(b.Status.NodeName, "") != node {
		w.Errorf("got resources %v on node %v, want some on %s", b.Status.Resources, b.Status.NodeName, node)
	}
}

// reportTrue applies the agent's share of the status: Ready, and these conditions.
func (w *world) reportTrue(name string, types ...string) {
	w.Helper()
	var status v1alpha1.BottleStatus
	for _, t := range append([]string{v1alpha1.ConditionReady}, types...) {
		status.Conditions = append(status.Conditions, metav1.Condition{Type: t, Status: metav1.ConditionTrue,
			Reason: v1alpha1.ReasonCompleted, Message: "set by a test", LastTransitionTime: metav1.Now()})
	}
	u := &unstructured.Unstructured{Object: map[string]any{"status": w.plain(status)}}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Bottle"))
	u.SetNamespace(w.ns)
	u.SetName(name)
	w.must(w.agentOf(w.bottle(name)).Status().Apply(w.Context(), client.ApplyConfigurationFromUnstructured(u),
		client.FieldOwner(v1alpha1.AgentFieldOwner), client.ForceOwnership))
}
