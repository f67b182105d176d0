// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/placeholder"
)

// A Bottle that has finished stays on its node, because its disk, logs and files are
// there, but nothing runs, so its resources are released. When it is to run again, or
// when its files are to be copied, they are booked again on that node, before the agent
// starts the machine. status.resources tells the agent which is the case: it is absent
// while nothing is booked.

// released reports whether the resources of a Bottle on its node were released, and are
// not booked again yet. An absent status.resources alone does not prove it: somebody may have
// removed it from a running Bottle.
func released(b *v1alpha1.Bottle) bool {
	if b.Status.Resources != nil || ptr.Deref(b.Status.NodeName, "") == "" {
		return false
	}
	switch scheduledReason(b) {
	case "", v1alpha1.ReasonScheduled, v1alpha1.ReasonEvicted:
		return false
	}
	return true
}

// finished reports whether the workload of a Bottle has ended for good. The agent
// reports that only once the machine is down.
func finished(b *v1alpha1.Bottle) bool {
	return meta.IsStatusConditionTrue(b.Status.Conditions, v1alpha1.ConditionFinished)
}

// idle reports whether nothing of a Bottle runs on its node, so that nothing need be
// booked there.
func idle(b *v1alpha1.Bottle) bool {
	return finished(b) && !meta.IsStatusConditionTrue(b.Status.Conditions, v1alpha1.ConditionFilesOpen)
}

// rests reports whether nothing is to be booked for a Bottle that has finished. If its node is
// drained or gone while its files are open, the machine stops, but the Bottle stays: on another
// node, it would run a second time.
func rests(f facts) bool {
	return idle(f.bottle) || finished(f.bottle) && (f.home.gone || f.home.lost() || f.eviction() != "")
}

// rebooks reports whether a Bottle on its node needs a booking there, because its
// resources were released.
func rebooks(b *v1alpha1.Bottle) bool { return released(b) && !idle(b) }

// decideIdle releases the resources of a finished Bottle. The status says so first: from
// then on, the agent starts no machine, and the placeholder may go.
func decideIdle(f facts, on string) decision {
	s := &desiredStatus{nodeName: on}
	message := "kube-scheduler chose node " + on + "; nothing is booked there for the Bottle, which has finished"
	if f.home.gone || f.home.lost() {
		message = "node " + on + " is gone or out of service: the disk, logs and files of the Bottle, which has finished, are lost"
	}
	s.schedule(metav1.ConditionTrue, v1alpha1.ReasonReleased, message)
	d := decision{status: s}
	if f.pod != nil && released(f.bottle) && !meta.IsStatusConditionTrue(f.bottle.Status.Conditions, v1alpha1.ConditionMachineReady) {
		d.pod = podRemove
	}
	return d
}

// decideRebook books the resources of a Bottle on its node again. kube-scheduler decides
// whether there is room. Nothing of the Bottle runs meanwhile, so a placeholder that ends or
// is deleted only means that another one is needed.
func decideRebook(f facts, on string) decision {
	s := retained(f, on)
	s.resources = nil
	d := decision{status: s}
	pending := func(reason, message string) decision {
		s.schedule(metav1.ConditionFalse, reason, message)
		return d
	}
	pod := f.pod
	switch {
	case pod == nil && f.namespaceTerminating:
		return pending(v1alpha1.ReasonNamespaceTerminating, "the namespace is being deleted, so no Pod can be created in it: the machine is not started")
	case pod == nil && f.refusal != "":
		return pending(f.refusalReason(), f.refusal)
	case pod == nil:
		return decision{pod: podCreate, pin: on}
	case pod.ended == "" && !pod.deleting && pod.node == on && pod.flaw == "":
		resources := f.desired.resources
		s.resources = &resources
		s.schedule(metav1.ConditionTrue, v1alpha1.ReasonScheduled, "kube-scheduler chose node "+on)
		return d
	case f.forbidden, pod.ended == "" && (pod.deleting || pod.digest != f.desired.digest || pod.node != "" && pod.node != on):
		return decision{pod: podRemove}
	case pod.ended != "":
		if f.succeedsNow() {
			d.pod, d.pin = podCreate, on
		}
		return pending(v1alpha1.ReasonPlaceholderEnded, f.ended())
	case pod.flaw != "" && pod.wait > 0:
		return pending(v1alpha1.ReasonPlaceholderMismatch, f.mismatch())
	case pod.flaw != "":
		return decision{pod: podRemove, flaw: pod.flaw}
	case pod.scheduled != nil && pod.scheduled.Status == corev1.ConditionFalse && pod.scheduled.Message != "":
		return pending(v1alpha1.ReasonUnschedulable, "the Bottle's disk is on node "+on+": "+pod.scheduled.Message)
	}
	return pending(v1alpha1.ReasonPending, fmt.Sprintf("waiting for kube-scheduler to bind Pod %s to node %s, where the Bottle's disk is", pod.name, on))
}

func (s *desiredStatus) schedule(status metav1.ConditionStatus, reason, message string) {
	s.asserted = append(s.asserted, metav1.Condition{Type: v1alpha1.ConditionScheduled, Status: status, Reason: reason, Message: message})
}

// renderRebooked returns the placeholder that books resources on the node of a Bottle
// that has finished. Unlike that of a running machine, it needs kube-scheduler's consent.
func renderRebooked(b *v1alpha1.Bottle, r v1alpha1.ResourcesStatus, o Options) (*corev1.Pod, error) {
	pod, err := placeholder.Render(b, r, ptr.Deref(b.Status.NodeName, ""), o.Options)
	if err != nil {
		return nil, err
	}
	pod.Spec.NodeName = ""
	return pod, nil
}

// renderWanted returns the placeholder that would be created now for kube-scheduler to
// place.
func renderWanted(b *v1alpha1.Bottle, r v1alpha1.ResourcesStatus, o Options) (*corev1.Pod, error) {
	if rebooks(b) {
		return renderRebooked(b, r, o)
	}
	return placeholder.Render(b, r, "", o.Options)
}
