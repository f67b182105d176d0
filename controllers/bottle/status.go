// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/flow"
)

// steps' conditions in the order in which they are reached.
var stepConditions = []string{
	v1alpha1.ConditionNetworkReady,
	v1alpha1.ConditionSmolfileReady,
	v1alpha1.ConditionBundleReady,
	v1alpha1.ConditionMachineReady,
}

// satisfied is what a condition says when its steps are.
var satisfied = map[string]struct{ reason, message string }{
	v1alpha1.ConditionNetworkReady:  {v1alpha1.ReasonReady, "the subnet is allocated and the bundle's network exists"},
	v1alpha1.ConditionSmolfileReady: {v1alpha1.ReasonReady, "the Smolfile on the node is as the spec asks"},
	v1alpha1.ConditionBundleReady:   {v1alpha1.ReasonReady, "the bundle runs and answers on its ports"},
	v1alpha1.ConditionMachineReady:  {v1alpha1.ReasonMachineRunning, "the machine is running and answers"},
}

const (
	messageReady    = "it runs, and nothing but its bundle can be reached from inside"
	messageUnproven = "it runs, unproven, which this agent allows: "
	messageStopped  = "stopped, as spec.desiredState asks"
)

// conditions are all that the agent says of the Bottle, computed from what
// became of the steps. Nothing else sets a condition.
func conditions(s *scope, now time.Time) []metav1.Condition {
	c := &computed{scope: s, now: now}
	for _, typ := range stepConditions {
		c.step(typ)
	}
	c.egress()
	c.pendingRestart()
	c.summary()
	return c.list
}

type computed struct {
	*scope
	now  time.Time
	list []metav1.Condition
}

// set adds a condition; its transition time moves only with its status.
func (c *computed) set(typ string, status metav1.ConditionStatus, reason, message string) {
	cond := metav1.Condition{
		Type: typ, Status: status, Reason: reason, Message: message,
		ObservedGeneration: c.bottle.Generation,
		LastTransitionTime: metav1.NewTime(c.now).Rfc3339Copy(),
	}
	if old := meta.FindStatusCondition(c.bottle.Status.Conditions, typ); old != nil && old.Status == status {
		cond.LastTransitionTime = old.LastTransitionTime
	}
	c.list = append(c.list, cond)
}

// outcomeOf folds the steps of one condition: the first that is not done says
// it. Absent steps count as blocked.
func (s *scope) outcomeOf(typ string) flow.Outcome {
	found := flow.Outcome{Kind: flow.KindBlocked, Message: "not looked at yet"}
	for _, o := range s.outcomes {
		if o.condition != typ {
			continue
		}
		found = o.outcome
		if found.Kind != flow.KindDone {
			break
		}
	}
	return found
}

func (c *computed) step(typ string) {
	o := c.outcomeOf(typ)
	switch o.Kind {
	case flow.KindDone:
		if desired.Stopped(c.bottle) && (typ == v1alpha1.ConditionMachineReady || typ == v1alpha1.ConditionBundleReady) {
			c.set(typ, metav1.ConditionFalse, v1alpha1.ReasonStopped, messageStopped)
			return
		}
		message := satisfied[typ].message
		if typ == v1alpha1.ConditionMachineReady {
			message += c.weakness()
		}
		c.set(typ, metav1.ConditionTrue, satisfied[typ].reason, message)
	case flow.KindBlocked:
		c.set(typ, metav1.ConditionUnknown, v1alpha1.ReasonBlocked, o.Message)
	case flow.KindRetry:
		c.set(typ, metav1.ConditionFalse, v1alpha1.ReasonError, bounded(o.Message))
	default:
		c.set(typ, metav1.ConditionFalse, o.Reason, bounded(o.Message))
	}
}

// weakness is what the user should know of a machine that runs as well as this
// release of smolvm lets it; "" for nothing.
func (c *computed) weakness() string {
	if c.version.OwnUser || c.version.Version == "" {
		return ""
	}
	return fmt.Sprintf("; its VMM runs as root, for smolvm %s is older than 1.2.5", c.version.Version)
}

func (c *computed) egress() {
	const typ = v1alpha1.ConditionEgressEnforced
	o := c.outcomeOf(typ)
	switch {
	case c.leak != nil:
		c.set(typ, metav1.ConditionFalse, v1alpha1.ReasonLeakDetected, bounded(leakMessage(c.scope)))
	case desired.Stopped(c.bottle) && c.outcomeOf(v1alpha1.ConditionMachineReady).Kind == flow.KindDone:
		c.set(typ, metav1.ConditionUnknown, v1alpha1.ReasonStopped, messageStopped)
	case o.Kind == flow.KindDone && c.record != nil && c.record.Proof != nil:
		c.set(typ, metav1.ConditionTrue, c.record.Proof.Reason, c.record.Proof.Message)
	case o.Kind == flow.KindWait && unknowing[o.Reason]:
		c.set(typ, metav1.ConditionUnknown, o.Reason, bounded(o.Message))
	default:
		c.step(typ)
	}
}

// unknowing are reasons for which it is not known whether the walls hold.
var unknowing = map[string]bool{
	v1alpha1.ReasonProving:          true,
	v1alpha1.ReasonProofNotObserved: true,
	v1alpha1.ReasonProofImpossible:  true,
	v1alpha1.ReasonBundleNotReached: true,
	v1alpha1.ReasonError:            true,
}

// pendingRestart is there only while fields wait. A pass that did not get far
// enough to compare them takes nothing back.
func (c *computed) pendingRestart() {
	switch {
	case len(c.pending) > 0:
		c.set(v1alpha1.ConditionPendingRestart, metav1.ConditionTrue, v1alpha1.ReasonSpecChanged, pendingMessage(c.pending, c.pendingHow))
	case !c.pendingKnown:
		if old := meta.FindStatusCondition(c.bottle.Status.Conditions, v1alpha1.ConditionPendingRestart); old != nil {
			c.set(old.Type, old.Status, old.Reason, old.Message)
		}
	}
}

// summary is Ready and, while they are so, Reconciling and Stalled.
func (c *computed) summary() {
	open, o := c.firstOpen()
	// A leak counts although the machine is down: that is what a leak leads to.
	halted := c.leak == nil && desired.Stopped(c.bottle) && c.outcomeOf(v1alpha1.ConditionMachineReady).Kind == flow.KindDone
	if c.leak != nil && o.Kind != flow.KindTerminal {
		open, o = v1alpha1.ConditionEgressEnforced, flow.Outcome{Kind: flow.KindTerminal, Reason: v1alpha1.ReasonLeakDetected, Message: leakMessage(c.scope)}
	}
	switch {
	case halted:
		c.set(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonStopped, messageStopped)
	case open == "":
		c.set(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady, messageReady)
	case o.Reason == v1alpha1.ReasonProofImpossible && c.readyUnproven:
		c.set(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonUnproven, bounded(messageUnproven+o.Message))
		open = ""
	default:
		c.set(v1alpha1.ConditionReady, metav1.ConditionFalse, reasonOf(o), bounded(open+": "+o.Message))
	}
	if open != "" && o.Kind == flow.KindTerminal {
		c.set(v1alpha1.ConditionStalled, metav1.ConditionTrue, reasonOf(o), bounded(o.Message))
	} else if open != "" {
		c.set(v1alpha1.ConditionReconciling, metav1.ConditionTrue, v1alpha1.ReasonProgressing, bounded("waits for "+open+": "+o.Message))
	}
	if open == "" || o.Kind == flow.KindTerminal {
		c.status.ObservedGeneration = ptr.To(c.bottle.Generation)
	}
}

// firstOpen is the first condition whose step ended the pass; "" when all are
// satisfied.
func (s *scope) firstOpen() (string, flow.Outcome) {
	for _, o := range s.outcomes {
		if o.condition != "" && o.outcome.Kind != flow.KindDone && o.outcome.Kind != flow.KindBlocked {
			return o.condition, o.outcome
		}
	}
	return "", flow.Outcome{}
}

func reasonOf(o flow.Outcome) string {
	if o.Reason == "" {
		return v1alpha1.ReasonError
	}
	return o.Reason
}

// bounded keeps a message within what a condition should carry.
func bounded(message string) string {
	const most = 1024
	if len(message) <= most {
		return message
	}
	return strings.ToValidUTF8(message[:most-3], "") + "..."
}

// agentConditions are the types that the agent alone computes, and Ready.
var agentConditions = append(slices.Clone(stepConditions),
	v1alpha1.ConditionEgressEnforced, v1alpha1.ConditionPendingRestart,
	v1alpha1.ConditionReady, v1alpha1.ConditionReconciling, v1alpha1.ConditionStalled)

// ownedStatus is the part of a status that the agent writes.
func ownedStatus(st v1alpha1.BottleStatus) v1alpha1.BottleStatus {
	out := *st.DeepCopy()
	out.NodeName, out.Resources, out.Conditions = nil, nil, nil
	return out
}

// ownedConditions are those among the observed ones that the agent computes,
// in its own order.
func ownedConditions(observed []metav1.Condition) []metav1.Condition {
	var out []metav1.Condition
	for _, typ := range agentConditions {
		if c := meta.FindStatusCondition(observed, typ); c != nil {
			out = append(out, *c)
		}
	}
	return out
}
