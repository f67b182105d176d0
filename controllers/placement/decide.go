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

// facts are everything that a decision about one Bottle depends on.
type facts struct {
	// bottle is the Bottle as read in this pass; never nil.
	bottle *v1alpha1.Bottle
	// pod is the Bottle's placeholder; nil when there is none.
	pod *podFacts
	// home is the node in status.nodeName; zero when there is none.
	home nodeFacts
	// bound is the node that the placeholder is bound to; zero when unbound.
	bound nodeFacts
	// desired is the placeholder that would be created now.
	desired desiredPod
	// refusal is why no placeholder can be created in this pass, for the user to read: the
	// API server refused it or, if forbidden is set, the manager allows no Pod to run
	// its image. It is empty if one can be created.
	refusal   string
	forbidden bool
	// namespaceTerminating reports that the namespace is being deleted, as the API
	// server answered in this pass. No Pod can be created there, now or later.
	namespaceTerminating bool
}

// podFacts are the only properties of a placeholder Pod that decisions use.
type podFacts struct {
	name     string
	created  time.Time
	node     string
	deleting bool
	// digest identifies what the placeholder requested when it was created.
	digest string
	// flaw is why the Pod cannot place a Bottle that has no node; "" if it can.
	flaw string
	// unbooked is what the Pod lacks of what was booked for a Bottle on its node;
	// "" if it lacks nothing.
	unbooked string
	// outdated is why the Pod does not run the bundle that the spec asks for; "" if it does.
	outdated string
	// twice is why the Pod must not run the bundle, which Docker runs; "" if it does not.
	twice string
	// wait is how long the Pod must stay although it is to be replaced or has ended; 0 means
	// that it may be replaced now.
	wait time.Duration
	// reportIn is how long the first report on a Bottle waits for kube-scheduler to bind
	// the new Pod, which is usually quick: then one write reports both. 0 means no longer.
	reportIn time.Duration
	// ended is how the Pod ended; "" if it has not. An ended Pod books nothing.
	ended string
	// evicted is how the Pod was made to leave its node; "" if it was not.
	evicted string
	// running reports that a kubelet runs the Pod.
	running bool
	// failures is how many placeholders ended in a row before this one, and next is that
	// number for its successor.
	failures, next int
	// unheld reports that our finalizer is missing, and marked that it is because
	// replacePod removes the Pod.
	unheld, marked bool
	// scheduled is the Pod's condition PodScheduled; nil when absent.
	scheduled *corev1.PodCondition
}

// replaced reports whether a Pod that is being deleted is one that replacePod
// deletes. It is marked, or books too little (earlier managers marked none), and has no
// finalizer, so it is about to disappear.
func (p *podFacts) replaced() bool { return p.marked || p.unbooked != "" && p.unheld }

// desiredPod is what a Bottle requests from the scheduler.
type desiredPod struct {
	resources v1alpha1.ResourcesStatus
	digest    string
}

// nodeFacts are what is known about a node. The zero value stands for a healthy
// node, and for one about which nothing is known yet.
type nodeFacts struct {
	// gone reports that no Node object of this name exists.
	gone bool
	// outOfService reports that the node is not ready and that an operator
	// tainted it as out of service.
	outOfService bool
	// agentLost reports that the Lease of the node's agent expired.
	agentLost bool
}

// lost reports that nothing can run on the node any more, as declared by whoever
// removed it or tainted it. Only then may its Bottles be placed elsewhere before
// the agent has torn them down.
func (n nodeFacts) lost() bool { return n.agentLost && (n.gone || n.outOfService) }

// podAction is what a pass does to the placeholder; "" leaves it as it is.
type podAction string

const (
	// podCreate creates it, pinned to decision.pin if that is set. If there is one that
	// has ended, podCreate creates its successor.
	podCreate podAction = "create"
	// podRemove deletes it and removes its finalizer.
	podRemove podAction = "remove"
	// podReplace removes its finalizer and deletes it, although the Bottle is on
	// its node. The next pass creates another one for that node.
	podReplace podAction = "replace"
	// podHold restores its finalizer.
	podHold podAction = "hold"
)

// decision is what one pass does: first to the Pod, then to the Bottle. clear and
// dropFinalizer are never both set, and dropFinalizer excludes status.
type decision struct {
	pod podAction
	pin string
	// flaw says why the placeholder is not what the manager creates; "" if there is no
	// flaw. outdated says why it no longer serves its machine, and twice why it must not run
	// the bundle; "" if neither is so. Each is a reason to remove or replace it.
	flaw, outdated, twice string
	// clear removes the node, and everything that its agent wrote, from the
	// status. The same write applies status.
	clear bool
	// dropFinalizer removes the agent's finalizer from a deleted Bottle.
	dropFinalizer bool
	// status is written if it differs from the current one; nil leaves that alone.
	status *desiredStatus
	// after is when to decide again; 0 means once the facts change.
	after time.Duration
}

// decide returns what to do for one Bottle.
func decide(f facts) decision {
	on := ptr.Deref(f.bottle.Status.NodeName, "")
	switch {
	case !f.bottle.DeletionTimestamp.IsZero():
		return decideDeleted(f, on)
	case on != "" && rests(f):
		return decideIdle(f, on)
	case on != "":
		d := decidePlaced(f, on)
		if f.pod != nil && f.pod.unbooked == "" {
			d = hold(f, d)
		}
		return d
	default:
		d := decideUnplaced(f)
		if f.pod != nil && f.pod.flaw == "" {
			d = hold(f, d)
		}
		return d
	}
}

// hold changes a decision about a sound placeholder: if the placeholder stays and lacks
// its finalizer, it gets it back.
func hold(f facts, d decision) decision {
	if f.pod.unheld && !f.pod.deleting && d.pod == "" && !d.clear {
		d.pod = podHold
	}
	return d
}

// decideDeleted keeps the placeholder until the agent's finalizer is gone, so
// that the placeholder outlives the machine.
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

// decidePlaced keeps the Bottle where it is until its node is lost or its agent
// has torn it down.
func decidePlaced(f facts, on string) decision {
	if f.home.lost() {
		return decision{clear: true, status: unplaced(f, v1alpha1.ReasonNodeLost,
			fmt.Sprintf("node %s is gone or out of service; the Bottle is placed again, with a new disk", on))}
	}
	if rebooks(f.bottle) {
		return decideRebook(f, on)
	}
	s := retained(f, on)
	d := decision{status: s}
	leaves := func(why string) decision {
		s.schedule(metav1.ConditionFalse, v1alpha1.ReasonEvicted, why)
		return d
	}
	reason, note := v1alpha1.ReasonScheduled, ""
	switch pod := f.pod; {
	case pod != nil && pod.node != "" && pod.node != on:
		d.pod = podRemove
	case f.eviction() != "":
		return leaves(fmt.Sprintf("the placeholder Pod was %s: the machine is removed from node %s, with its disk, before the Bottle goes elsewhere", f.eviction(), on))
	case f.home.gone:
		return leaves(fmt.Sprintf("node %s was removed from the cluster: the machine is removed from it before the Bottle goes elsewhere", on))
	case pod == nil && f.namespaceTerminating:
		note = "; its placeholder Pod is gone, and no new one can be created because the namespace is being deleted"
	case pod == nil && f.refusal != "":
		note = "; its placeholder Pod is gone, " + f.noNewPod()
	case pod == nil:
		d.pod, d.pin = podCreate, on
	case pod.ended != "":
		if f.succeedsNow() {
			d.pod, d.pin = podCreate, on
		}
		reason, note = v1alpha1.ReasonPlaceholderEnded, fmt.Sprintf(
			"; Pod %s, which reserved resources there, has ended (%s): the machine %s, %s", pod.name, pod.ended, fate(f.bottle), f.successor())
	case pod.deleting: // it is being replaced
	case pod.unbooked != "" && pod.wait > 0:
		note = "; its placeholder Pod books too little and is replaced soon: " + pod.unbooked
	case pod.unbooked != "" && !replaceable(f):
		note = "; its placeholder Pod books too little, and is replaced once the Bottle is stopped (spec.desiredState): " + pod.unbooked
	case pod.unbooked != "":
		d.pod, d.flaw = podReplace, pod.unbooked
	case pod.outdated != "" && pod.wait == 0 && f.refusal == "" && awaitsPod(f.bottle):
		d.pod, d.outdated = podReplace, pod.outdated
	case pod.twice != "" && pod.wait == 0:
		d.pod, d.twice = podReplace, pod.twice
	case f.unaccepted():
		reason, note = v1alpha1.ReasonPlaceholderEnded, fmt.Sprintf("; Pod %s takes the place of one that ended, and no machine starts before the node accepts it", pod.name)
	}
	s.schedule(metav1.ConditionTrue, reason, "kube-scheduler chose node "+on+note)
	return d
}

// decideUnplaced decides for a Bottle that has nothing on any node.
func decideUnplaced(f facts) decision {
	if f.bottle.Spec.DesiredState == v1alpha1.DesiredStateStopped {
		d := decision{status: unplaced(f, v1alpha1.ReasonStopped,
			"spec.desiredState is Stopped: a node is chosen when it becomes Running")}
		// A Bottle that is stopped as requested is ready, so that nobody waits for
		// it.
		meta.FindStatusCondition(d.status.asserted, v1alpha1.ConditionReady).Status = metav1.ConditionTrue
		if f.pod != nil {
			d.pod = podRemove
		}
		return d
	}
	pod := f.pod
	switch {
	case pod == nil && f.namespaceTerminating:
		return decision{status: unplaced(f, v1alpha1.ReasonNamespaceTerminating,
			"the namespace is being deleted, so no Pod can be created in it: the Bottle is not placed")}
	case pod == nil && f.refusal != "":
		return decision{status: unplaced(f, f.refusalReason(), f.refusal)}
	case pod == nil:
		return decision{pod: podCreate}
	case f.forbidden:
		return decision{pod: podRemove}
	case pod.digest != f.desired.digest, pod.deleting && (pod.ended == "" || f.eviction() != ""):
		return decision{pod: podRemove}
	case pod.ended != "":
		d := decision{status: unplaced(f, v1alpha1.ReasonPlaceholderEnded, f.ended())}
		if f.succeedsNow() {
			d.pod = podCreate
		}
		return d
	case pod.flaw != "" && pod.wait > 0:
		return decision{status: unplaced(f, v1alpha1.ReasonPlaceholderMismatch, f.mismatch())}
	case pod.flaw != "":
		return decision{pod: podRemove, flaw: pod.flaw}
	case pod.node != "" && (f.bound.gone || f.bound.outOfService):
		return decision{pod: podRemove}
	case pod.node != "":
		return decision{status: justPlaced(f, pod.node)}
	case pod.scheduled != nil && pod.scheduled.Status == corev1.ConditionFalse && pod.scheduled.Message != "":
		return decision{status: unplaced(f, v1alpha1.ReasonUnschedulable, pod.scheduled.Message)}
	case pod.reportIn > 0 && scheduledReason(f.bottle) == "":
		return decision{after: pod.reportIn}
	default:
		return decision{status: unplaced(f, v1alpha1.ReasonPending, "waiting for kube-scheduler to bind Pod "+pod.name)}
	}
}

// scheduledReason is the current reason of the Bottle's condition Scheduled, or
// "".
func scheduledReason(b *v1alpha1.Bottle) string {
	if c := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionScheduled); c != nil {
		return c.Reason
	}
	return ""
}
