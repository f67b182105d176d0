// SPDX-License-Identifier: Apache-2.0

package placement_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
)

// Nothing can be created in a namespace that is being deleted. The Bottles report
// that, the manager does not keep trying to create Pods, and it logs no error.
// (This API server has no controller that finishes the deletion of the namespace,
// so the Bottles stay.)
func TestTerminatingNamespace(t *testing.T) {
	w, f := newWorld(t), &writes{}
	w.start(f.funcs())
	node, _ := w.node("a")
	w.placed(builders.MakeBottle("placed").Obj(), node)
	w.takeOver("placed")
	w.create(builders.MakeBottle("waiting").Stopped().Obj())
	w.waitScheduled("waiting", "False Stopped")
	ns := &corev1.Namespace{}
	ns.Name = w.ns
	w.must(w.c.Delete(t.Context(), ns))

	w.desire("waiting", v1alpha1.DesiredStateRunning)
	w.waitScheduled("waiting", "False NamespaceTerminating")
	w.wait("waiting", v1alpha1.ConditionReady, "False NamespaceTerminating")
	pod := w.pod("placed")
	w.must(w.c.Delete(t.Context(), pod, client.GracePeriodSeconds(0)))
	w.waitScheduled("placed", "False Evicted") // its Event cannot be recorded in this namespace
	before := pod.DeepCopy()
	pod.Finalizers = nil
	w.must(w.c.Patch(t.Context(), pod, client.MergeFrom(before)))
	want := "kube-scheduler chose node " + node + "; its placeholder Pod is gone, and no new one can be created because the namespace is being deleted"
	w.eventually(func() string {
		if got := message(w.bottle("placed"), v1alpha1.ConditionScheduled); got != want {
			return "got message " + got + ", want " + want
		}
		return ""
	})
	w.eventually(func() string { // after a refusal, the manager tries again after 200 ms
		tries := f.seen()["create Pod"]
		<-time.After(time.Second)
		if got := f.seen()["create Pod"]; got > tries {
			return "the manager keeps trying to create Pods"
		}
		return ""
	})
	if got := w.errors.all(); len(got) > 0 {
		t.Errorf("errors logged: got %q, want none", got)
	}
}
