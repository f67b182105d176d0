// SPDX-License-Identifier: Apache-2.0

// Package agentstatus computes the conditions that the agent reports for a
// Bottle from the outcome of a pass over it. It is pure, and the only place that
// sets these conditions.
package agentstatus

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/rulenames"
	"botbottle.dev/bottle-operator/internal/state"
)

const (
	messageReady    = "it runs, and the guest can reach nothing but its bundle"
	messageUnproven = "it runs without a proof, which this agent allows: "
	messageStopped  = "stopped, as spec.desiredState asks; its disk stays on the node, and its CPUs, memory and disk space stay booked there"
	messageHidden   = "; it hides networks that are in use elsewhere from the node and from the Bottle: %s; to give the Bottle another subnet, delete it and create it again"
)

// Input is what a pass found out about a Bottle.
type Input struct {
	// Bottle as the pass read it.
	Bottle *v1alpha1.Bottle
	// Outcomes of the steps, in order.
	Outcomes []StepOutcome
	// Leak is the message of a leak that counts; "" if there is none.
	Leak string
	// Proof is the current proof; nil if nothing is proven.
	Proof *state.Proof
	// Refused is the message about egress rules that the platform refuses; "" if it
	// refuses none.
	Refused string
	// Hidden names the networks in use elsewhere that the Bottle's subnet hides from
	// the node; "" for none.
	Hidden string
	// Pending is the message about fields that wait for a new machine; "" if
	// none do. PendingKnown says whether the pass could compare them.
	Pending      string
	PendingKnown bool
	// Version is the node's smolvm; zero if the pass did not find it out.
	Version host.SmolvmVersion
	// ReadyUnproven: the agent does not require a proof where none can be
	// made.
	ReadyUnproven bool
	// Finished says how the Bottle has finished; nil if it has not.
	Finished *state.End
	// FilesOpen: the machine of the finished Bottle runs, so that files can be copied.
	FilesOpen bool
	// Credentials are those that the bundle has.
	Credentials []v1alpha1.CredentialStatus
	// Unsupervised says why the Bottle never finishes by itself, although it has a
	// workload; "" if it does or has none.
	Unsupervised string
}

// StepOutcome is the outcome of one step.
type StepOutcome struct {
	// Condition is the type of condition that reports the step; "" for none.
	Condition string
	Outcome   flow.Outcome
}

// Conditions returns all conditions that the agent reports, and whether the
// Bottle's generation was observed. It was observed if the pass succeeded, or if
// only a change by the user can help.
func Conditions(in Input, now time.Time) (list []metav1.Condition, observed bool) {
	c := &computed{Input: in, now: now}
	for _, t := range v1alpha1.ConditionTypes {
		if t.DoneReason != "" {
			c.step(t)
		}
	}
	c.egress()
	if c.Refused != "" {
		c.set(v1alpha1.ConditionEgressLimited, metav1.ConditionTrue, v1alpha1.ReasonEgressRuleRefused, Bounded(c.Refused))
	}
	c.finished()
	c.pendingRestart()
	c.summary()
	return c.list, c.observed
}

// Leaving returns the conditions of a Bottle that is being removed from the node
// for this reason, as long as err prevents that. A reported leak stays.
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
			c.set(old.Type, metav1.ConditionUnknown, reason, "the Bottle is leaving the node")
		default:
			c.list = append(c.list, old)
		}
	}
	message := Bounded("the Bottle is leaving the node: " + err.Error())
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

// set adds a condition. Its transition time changes only with its status.
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

// outcomeOf combines the outcomes of the steps of one condition. The first step
// that is not done decides. Without a step, the condition counts as blocked.
func (c *computed) outcomeOf(typ string) flow.Outcome {
	found := flow.Outcome{Kind: flow.KindBlocked, Message: "not checked yet"}
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

// step sets the condition that reports steps of this type.
func (c *computed) step(t v1alpha1.ConditionType) {
	typ, o := t.Type, c.outcomeOf(t.Type)
	switch o.Kind {
	case flow.KindDone:
		if down, message := c.down(); down != "" && (typ == v1alpha1.ConditionMachineReady || typ == v1alpha1.ConditionBundleReady) {
			c.set(typ, metav1.ConditionFalse, down, message)
			return
		}
		message := t.DoneMessage
		if missing := rulenames.Missing(&c.Bottle.Spec, c.Credentials); typ == v1alpha1.ConditionBundleReady && missing != "" {
			message = Bounded(message + "; " + missing)
		}
		if typ == v1alpha1.ConditionMachineReady {
			message += c.weakness() + c.Unsupervised
			if note := rulenames.Note(&c.Bottle.Spec); note != "" {
				message = Bounded(message + "; " + note)
			}
		}
		if typ == v1alpha1.ConditionNetworkReady && c.Hidden != "" {
			c.set(typ, metav1.ConditionTrue, v1alpha1.ReasonSubnetReserved, Bounded(message+fmt.Sprintf(messageHidden, c.Hidden)))
			return
		}
		c.set(typ, metav1.ConditionTrue, t.DoneReason, message)
	case flow.KindBlocked:
		c.set(typ, metav1.ConditionUnknown, v1alpha1.ReasonBlocked, o.Message)
	case flow.KindRetry:
		c.set(typ, metav1.ConditionFalse, v1alpha1.ReasonError, Bounded(o.Message))
	default:
		c.set(typ, metav1.ConditionFalse, o.Reason, Bounded(o.Message))
	}
}

// weakness returns what the user should know about a running machine because of
// the node's release of smolvm; "" for nothing.
func (c *computed) weakness() string {
	if c.Version.OwnUser || c.Version.Version == "" {
		return ""
	}
	return fmt.Sprintf("; its VMM runs as root, because smolvm %s is older than 1.2.5", c.Version.Version)
}

func (c *computed) egress() {
	const typ = v1alpha1.ConditionEgressEnforced
	o := c.outcomeOf(typ)
	switch {
	case c.Leak != "":
		c.set(typ, metav1.ConditionFalse, v1alpha1.ReasonLeakDetected, Bounded(c.Leak))
	case c.isDown():
		reason, message := c.down()
		c.set(typ, metav1.ConditionUnknown, reason, message)
	case o.Kind == flow.KindDone && c.Proof != nil:
		c.set(typ, metav1.ConditionTrue, c.Proof.Reason, c.Proof.Message)
	case o.Kind == flow.KindWait && v1alpha1.UnknownReasons[o.Reason]:
		c.set(typ, metav1.ConditionUnknown, o.Reason, Bounded(o.Message))
	default:
		c.step(v1alpha1.ConditionType{Type: typ})
	}
}

// pendingRestart sets PendingRestart only while fields wait for a new machine. A
// pass that did not get far enough to compare them keeps the old condition.
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

// summary sets Ready and, only while they are true, Reconciling and Stalled.
func (c *computed) summary() {
	open, o := c.firstOpen()
	// A leak counts even if the machine is down, because a leak stops it.
	halted := c.Leak == "" && (c.isDown() || c.Finished != nil && c.FilesOpen)
	if c.Leak != "" && o.Kind != flow.KindTerminal {
		open, o = v1alpha1.ConditionEgressEnforced, flow.Outcome{Kind: flow.KindTerminal, Reason: v1alpha1.ReasonLeakDetected, Message: c.Leak}
	}
	switch {
	case halted && c.failed():
		c.set(v1alpha1.ConditionReady, metav1.ConditionFalse, c.Finished.Reason, Bounded(c.Finished.Message))
		open, o = v1alpha1.ConditionFinished, flow.Outcome{Kind: flow.KindTerminal, Reason: c.Finished.Reason, Message: c.Finished.Message + messageAgain}
	case halted && c.Finished != nil:
		c.set(v1alpha1.ConditionReady, metav1.ConditionTrue, c.Finished.Reason, c.completed())
		open = ""
	case halted:
		c.set(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonStopped, messageStopped)
		open = "" // problems elsewhere do not concern a machine that is down
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

// firstOpen returns the condition and the outcome of the step that ended the
// pass; "" if all are done.
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

// Bounded cuts a message to a length that suits a condition.
func Bounded(message string) string {
	const limit = 1024
	if len(message) <= limit {
		return message
	}
	return strings.ToValidUTF8(message[:limit-3], "") + "..."
}

// Types are the types of the conditions that the agent writes.
var Types = writtenByAgent()

func writtenByAgent() (types []string) {
	for _, t := range v1alpha1.ConditionTypes {
		if t.Agent {
			types = append(types, t.Type)
		}
	}
	return types
}

// RecordedSubnet returns the subnet in the status; it is invalid if there is none.
func RecordedSubnet(b *v1alpha1.Bottle) netip.Prefix {
	if b.Status.Network == nil {
		return netip.Prefix{}
	}
	p, err := netip.ParsePrefix(b.Status.Network.Subnet)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
