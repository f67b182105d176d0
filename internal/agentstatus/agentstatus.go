// SPDX-License-Identifier: Apache-2.0

// Package agentstatus computes the conditions that the agent reports of a
// Bottle, from what became of a pass over it. It is pure, and the only place
// that sets one of these conditions.
package agentstatus

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
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

// Input is what a pass found out about a Bottle.
type Input struct {
	// Bottle as the pass read it.
	Bottle *v1alpha1.Bottle
	// Outcomes of the steps, in order.
	Outcomes []StepOutcome
	// Leak is the message of a leak that counts; "" if there is none.
	Leak string
	// Proof is the one that stands; nil if nothing is proven.
	Proof *state.Proof
	// Pending is the message about fields that wait for a new machine; "" if
	// none do. PendingKnown says whether the pass could compare them.
	Pending      string
	PendingKnown bool
	// Version is the node's smolvm; zero if the pass did not get to know it.
	Version host.SmolvmVersion
	// ReadyUnproven: the agent does not insist on a proof where none can be
	// made.
	ReadyUnproven bool
}

// StepOutcome is what became of one step.
type StepOutcome struct {
	// Condition is the type that the step answers for; "" for none.
	Condition string
	Outcome   flow.Outcome
}

// Conditions returns all that the agent reports, and whether the Bottle's
// generation was observed: on success, and when nothing will get better by
// itself.
func Conditions(in Input, now time.Time) (list []metav1.Condition, observed bool) {
	c := &computed{Input: in, now: now}
	for _, typ := range stepConditions {
		c.step(typ)
	}
	c.egress()
	c.pendingRestart()
	c.summary()
	return c.list, c.observed
}

// Leaving returns the conditions of a Bottle that is being removed from the
// node for this reason, while that is not done because of err. A leak that was
// reported stays.
func Leaving(b *v1alpha1.Bottle, now time.Time, reason string, err error) []metav1.Condition {
	c := &computed{Input: Input{Bottle: b}, now: now}
	for _, old := range Owned(b.Status.Conditions) {
		switch old.Type {
		case v1alpha1.ConditionReady, v1alpha1.ConditionReconciling, v1alpha1.ConditionStalled:
		case v1alpha1.ConditionMachineReady, v1alpha1.ConditionEgressEnforced:
			if old.Reason == v1alpha1.ReasonLeakDetected {
				c.list = append(c.list, old)
				continue
			}
			c.set(old.Type, metav1.ConditionUnknown, reason, "the node is being left")
		default:
			c.list = append(c.list, old)
		}
	}
	message := Bounded("the node is being left: " + err.Error())
	c.set(v1alpha1.ConditionReady, metav1.ConditionFalse, reason, message)
	c.set(v1alpha1.ConditionReconciling, metav1.ConditionTrue, reason, message)
	return c.list
}

type computed struct {
	Input
	now      time.Time
	list     []metav1.Condition
	observed bool
}

// set adds a condition; its transition time moves only with its status.
func (c *computed) set(typ string, status metav1.ConditionStatus, reason, message string) {
	cond := metav1.Condition{
		Type: typ, Status: status, Reason: reason, Message: message,
		ObservedGeneration: c.Bottle.Generation,
		LastTransitionTime: metav1.NewTime(c.now).Rfc3339Copy(),
	}
	if old := meta.FindStatusCondition(c.Bottle.Status.Conditions, typ); old != nil && old.Status == status {
		cond.LastTransitionTime = old.LastTransitionTime
	}
	c.list = append(c.list, cond)
}

// outcomeOf folds the steps of one condition: the first that is not done says
// it. Absent steps count as blocked.
func (c *computed) outcomeOf(typ string) flow.Outcome {
	found := flow.Outcome{Kind: flow.KindBlocked, Message: "not looked at yet"}
	for _, o := range c.Outcomes {
		if o.Condition != typ {
			continue
		}
		found = o.Outcome
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
		if desired.Stopped(c.Bottle) && (typ == v1alpha1.ConditionMachineReady || typ == v1alpha1.ConditionBundleReady) {
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
		c.set(typ, metav1.ConditionFalse, v1alpha1.ReasonError, Bounded(o.Message))
	default:
		c.set(typ, metav1.ConditionFalse, o.Reason, Bounded(o.Message))
	}
}

// weakness is what the user should know of a machine that runs as well as this
// release of smolvm lets it; "" for nothing.
func (c *computed) weakness() string {
	if c.Version.OwnUser || c.Version.Version == "" {
		return ""
	}
	return fmt.Sprintf("; its VMM runs as root, for smolvm %s is older than 1.2.5", c.Version.Version)
}

func (c *computed) egress() {
	const typ = v1alpha1.ConditionEgressEnforced
	o := c.outcomeOf(typ)
	switch {
	case c.Leak != "":
		c.set(typ, metav1.ConditionFalse, v1alpha1.ReasonLeakDetected, Bounded(c.Leak))
	case desired.Stopped(c.Bottle) && c.outcomeOf(v1alpha1.ConditionMachineReady).Kind == flow.KindDone:
		c.set(typ, metav1.ConditionUnknown, v1alpha1.ReasonStopped, messageStopped)
	case o.Kind == flow.KindDone && c.Proof != nil:
		c.set(typ, metav1.ConditionTrue, c.Proof.Reason, c.Proof.Message)
	case o.Kind == flow.KindWait && unknowing[o.Reason]:
		c.set(typ, metav1.ConditionUnknown, o.Reason, Bounded(o.Message))
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
	case c.Pending != "":
		c.set(v1alpha1.ConditionPendingRestart, metav1.ConditionTrue, v1alpha1.ReasonSpecChanged, c.Pending)
	case !c.PendingKnown:
		if old := meta.FindStatusCondition(c.Bottle.Status.Conditions, v1alpha1.ConditionPendingRestart); old != nil {
			c.set(old.Type, old.Status, old.Reason, old.Message)
		}
	}
}

// summary is Ready and, while they are so, Reconciling and Stalled.
func (c *computed) summary() {
	open, o := c.firstOpen()
	// A leak counts although the machine is down: that is what a leak leads to.
	halted := c.Leak == "" && desired.Stopped(c.Bottle) && c.outcomeOf(v1alpha1.ConditionMachineReady).Kind == flow.KindDone
	if c.Leak != "" && o.Kind != flow.KindTerminal {
		open, o = v1alpha1.ConditionEgressEnforced, flow.Outcome{Kind: flow.KindTerminal, Reason: v1alpha1.ReasonLeakDetected, Message: c.Leak}
	}
	switch {
	case halted:
		c.set(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonStopped, messageStopped)
		open = "" // what is wrong elsewhere does not concern a machine that is down
	case open == "":
		c.set(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady, messageReady)
	case o.Reason == v1alpha1.ReasonProofImpossible && c.ReadyUnproven:
		c.set(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonUnproven, Bounded(messageUnproven+o.Message))
		open = ""
	default:
		c.set(v1alpha1.ConditionReady, metav1.ConditionFalse, reasonOf(o), Bounded(open+": "+o.Message))
	}
	if open != "" && o.Kind == flow.KindTerminal {
		c.set(v1alpha1.ConditionStalled, metav1.ConditionTrue, reasonOf(o), Bounded(o.Message))
	} else if open != "" {
		c.set(v1alpha1.ConditionReconciling, metav1.ConditionTrue, v1alpha1.ReasonProgressing, Bounded("waits for "+open+": "+o.Message))
	}
	if open == "" || o.Kind == flow.KindTerminal {
		c.observed = true
	}
}

// firstOpen is the first condition whose step ended the pass; "" when all are
// satisfied.
func (c *computed) firstOpen() (string, flow.Outcome) {
	for _, o := range c.Outcomes {
		if o.Condition != "" && o.Outcome.Kind != flow.KindDone && o.Outcome.Kind != flow.KindBlocked {
			return o.Condition, o.Outcome
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

// Bounded keeps a message within what a condition should carry.
func Bounded(message string) string {
	const most = 1024
	if len(message) <= most {
		return message
	}
	return strings.ToValidUTF8(message[:most-3], "") + "..."
}

// Types are the types of the conditions that the agent writes: Ready and those
// that only the agent can compute.
var Types = append(slices.Clone(stepConditions),
	v1alpha1.ConditionEgressEnforced, v1alpha1.ConditionPendingRestart,
	v1alpha1.ConditionReady, v1alpha1.ConditionReconciling, v1alpha1.ConditionStalled)

// Owned returns those of the conditions that the agent computes,
// in its own order.
func Owned(observed []metav1.Condition) []metav1.Condition {
	var out []metav1.Condition
	for _, typ := range Types {
		if c := meta.FindStatusCondition(observed, typ); c != nil {
			out = append(out, *c)
		}
	}
	return out
}
