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

// Nothing can be created in a namespace that is being deleted: the Bottles say
// so, no Pod is tried again and again, and no error is logged. (No controller
// of this API server ends the namespace, so the Bottles stay.)
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
	w.waitScheduled("placed", "False Evicted") // an Event that cannot be recorded goes with it
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
	w.eventually(func() string { // a refusal is tried again after 200 ms
		tries := f.seen()["create Pod"]
		<-time.After(time.Second)
		if got := f.seen()["create Pod"]; got > tries {
			return "Pods are tried over and over"
		}
		return ""
	})
	if got := w.errors.all(); len(got) > 0 {
		t.Errorf("errors logged: got %q, want none", got)
	}
}
