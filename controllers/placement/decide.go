// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// facts are all that a decision on one Bottle rests on.
type facts struct {
	// bottle as it was read; never nil.
	bottle *v1alpha1.Bottle
	// pod is the Bottle's placeholder; nil: there is none.
	pod *podFacts
	// home is the node in status.nodeName; zero when there is none.
	home nodeFacts
	// bound is the node that the placeholder is bound to; zero when unbound.
	bound nodeFacts
	// wanted is the placeholder that would be made now.
	wanted wantedPod
	// refusal is why the API server would not have the placeholder made, just
	// now; empty when it was not tried.
	refusal string
	// namespaceEnds: the namespace is being deleted, as the API server just
	// answered. No Pod can be created there, now or later.
	namespaceEnds bool
}

// podFacts are the only things of a placeholder Pod that are looked at.
type podFacts struct {
	name     string
	created  time.Time
	node     string
	deleting bool
	// digest of the placeholder as it was asked for.
	digest string
	// scheduled is the Pod's condition PodScheduled; nil when absent.
	scheduled *corev1.PodCondition
}

// wantedPod is what is asked of the scheduler.
type wantedPod struct {
	resources v1alpha1.ResourcesStatus
	digest    string
}

// nodeFacts are what is known of a node. What is not known yet is zero, which
// stands for a node in good order.
type nodeFacts struct {
	// gone: there is no Node object of this name.
	gone bool
	// outOfService: it is not ready and an operator tainted it as switched off.
	outOfService bool
	// agentLost: its agent's Lease expired.
	agentLost bool
}

// lost says that nothing can run on the node any more, or that whoever took
// it out of the cluster says so: only then may its Bottles go elsewhere
// without the agent having torn them down.
func (n nodeFacts) lost() bool { return n.agentLost && (n.gone || n.outOfService) }

// podAction is what is to happen to the placeholder; "" leaves it as it is.
type podAction string

const (
	// podCreate makes one, pinned to decision.pin when that is set.
	podCreate podAction = "create"
	// podRemove deletes it and takes its finalizer off.
	podRemove podAction = "remove"
)

// decision is what one pass does: first to the Pod, then to the Bottle. At
// most one of clear, dropFinalizer and status is set.
type decision struct {
	pod podAction
	pin string
	// clear forgets the node and all that its agent wrote; status goes with
	// it, in the same write.
	clear bool
	// dropFinalizer takes the agent's finalizer off a deleted Bottle.
	dropFinalizer bool
	// status to be written when it differs; nil leaves it alone.
	status *wantedStatus
}

// wantedStatus is the manager's part of a Bottle's status.
type wantedStatus struct {
	nodeName  string
	resources *v1alpha1.ResourcesStatus
	// asserted conditions; time and generation are filled in when written.
	asserted []metav1.Condition
}

// decide says what to do for one Bottle.
func decide(f facts) decision {
	on := ptr.Deref(f.bottle.Status.NodeName, "")
	switch {
	case !f.bottle.DeletionTimestamp.IsZero():
		return decideDeleted(f, on)
	case on != "":
		return decidePlaced(f, on)
	default:
		return decideUnplaced(f)
	}
}

// decideDeleted: the placeholder outlives the machine, and the agent's
// finalizer goes with the machine.
func decideDeleted(f facts, on string) decision {
	if controllerutil.ContainsFinalizer(f.bottle, v1alpha1.FinalizerNode) {
		if on == "" || f.home.lost() {
			return decision{dropFinalizer: true}
		}
		return decision{status: retained(f, on)}
	}
	if f.pod != nil {
		return decision{pod: podRemove}
	}
	return decision{}
}

// decidePlaced: the Bottle stays where it is until its node is lost or its
// agent has torn it down.
func decidePlaced(f facts, on string) decision {
	if f.home.lost() {
		return decision{clear: true, status: unplaced(f, v1alpha1.ReasonNodeLost,
			fmt.Sprintf("node %s is gone or out of service; the Bottle is placed again, with a new disk", on))}
	}
	s := retained(f, on)
	d := decision{status: s}
	say := func(status metav1.ConditionStatus, reason, message string) {
		s.asserted = append(s.asserted, metav1.Condition{Type: v1alpha1.ConditionScheduled, Status: status, Reason: reason, Message: message})
	}
	chosen := "kube-scheduler chose node " + on
	switch {
	case f.pod != nil && f.pod.node != "" && f.pod.node != on:
		d.pod = podRemove
		say(metav1.ConditionTrue, v1alpha1.ReasonScheduled, chosen)
	case f.pod != nil && f.pod.deleting:
		say(metav1.ConditionFalse, v1alpha1.ReasonEvicted, fmt.Sprintf(
			"the placeholder Pod was deleted (by a drain, preemption or a person): the machine is removed from node %s before the Bottle goes elsewhere", on))
	case f.home.gone:
		say(metav1.ConditionFalse, v1alpha1.ReasonEvicted, fmt.Sprintf(
			"node %s was removed from the cluster: the machine is removed from it before the Bottle goes elsewhere", on))
	case f.pod == nil && f.namespaceEnds:
		say(metav1.ConditionTrue, v1alpha1.ReasonScheduled, chosen+"; its placeholder Pod is gone, and no new one can be created because the namespace is being deleted")
	case f.pod == nil && f.refusal != "":
		say(metav1.ConditionTrue, v1alpha1.ReasonScheduled, chosen+"; its placeholder Pod is gone and a new one is refused: "+f.refusal)
	case f.pod == nil:
		d.pod, d.pin = podCreate, on
		say(metav1.ConditionTrue, v1alpha1.ReasonScheduled, chosen)
	default:
		say(metav1.ConditionTrue, v1alpha1.ReasonScheduled, chosen)
	}
	return d
}

// decideUnplaced: no node holds anything of the Bottle.
func decideUnplaced(f facts) decision {
	if f.bottle.Spec.DesiredState == v1alpha1.DesiredStateStopped {
		d := decision{status: unplaced(f, v1alpha1.ReasonStopped,
			"spec.desiredState is Stopped: a node is chosen when it becomes Running")}
		// A Bottle that is stopped as asked is ready: nobody is to wait for it.
		meta.FindStatusCondition(d.status.asserted, v1alpha1.ConditionReady).Status = metav1.ConditionTrue
		if f.pod != nil {
			d.pod = podRemove
		}
		return d
	}
	pod := f.pod
	switch {
	case pod == nil && f.namespaceEnds:
		return decision{status: unplaced(f, v1alpha1.ReasonNamespaceTerminating,
			"the namespace is being deleted, so that no Pod can be created in it: the Bottle is not placed")}
	case pod == nil && f.refusal != "":
		return decision{status: unplaced(f, v1alpha1.ReasonPlaceholderRefused, f.refusal)}
	case pod == nil:
		return decision{pod: podCreate}
	case pod.deleting, pod.digest != f.wanted.digest:
		return decision{pod: podRemove}
	case pod.node != "" && (f.bound.gone || f.bound.outOfService):
		return decision{pod: podRemove}
	case pod.node != "":
		return decision{status: justPlaced(f, pod.node)}
	case pod.scheduled != nil && pod.scheduled.Status == corev1.ConditionFalse && pod.scheduled.Message != "":
		return decision{status: unplaced(f, v1alpha1.ReasonUnschedulable, pod.scheduled.Message)}
	default:
		return decision{status: unplaced(f, v1alpha1.ReasonPending, "waiting for kube-scheduler to bind Pod "+pod.name)}
	}
}

// justPlaced is the status of the hand-over to the agent. It keeps a Ready,
// so that whoever waits for that sees one at every moment.
func justPlaced(f facts, node string) *wantedStatus {
	resources := f.wanted.resources
	return &wantedStatus{nodeName: node, resources: &resources, asserted: []metav1.Condition{
		{Type: v1alpha1.ConditionScheduled, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonScheduled, Message: "kube-scheduler chose node " + node},
		{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonProgressing, Message: "waiting for the agent on node " + node},
	}}
}

// unplaced is the status of a Bottle without a node; Ready says the same as
// Scheduled.
func unplaced(f facts, reason, message string) *wantedStatus {
	resources := f.wanted.resources
	s := &wantedStatus{resources: &resources}
	for _, t := range []string{v1alpha1.ConditionScheduled, v1alpha1.ConditionReady} {
		s.asserted = append(s.asserted, metav1.Condition{Type: t, Status: metav1.ConditionFalse, Reason: reason, Message: message})
	}
	return s
}

// retained is the status of a Bottle on its node: node and booking stay as
// they are, and nothing is known of it while its agent is lost.
func retained(f facts, on string) *wantedStatus {
	s := &wantedStatus{nodeName: on, resources: f.bottle.Status.Resources}
	if s.resources == nil {
		resources := f.wanted.resources
		s.resources = &resources
	}
	if !f.home.agentLost {
		return s
	}
	message := fmt.Sprintf("the agent on node %s stopped renewing its Lease: look at the node, and at bottle-agent.service there", on)
	for _, t := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionEgressEnforced} {
		s.asserted = append(s.asserted, metav1.Condition{Type: t, Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonAgentLost, Message: message})
	}
	return s
}

// scheduledReason is the reason that a Bottle's Scheduled has now, or "".
func scheduledReason(b *v1alpha1.Bottle) string {
	if c := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionScheduled); c != nil {
		return c.Reason
	}
	return ""
}
