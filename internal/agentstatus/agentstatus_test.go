// SPDX-License-Identifier: Apache-2.0

package agentstatus_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/agentstatus"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/test/builders"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// outcomes returns outcomes in which all steps are done up to the one with the
// condition open. That step has the outcome o, and the later ones are blocked.
func outcomes(open string, o flow.Outcome) []agentstatus.StepOutcome {
	out := []agentstatus.StepOutcome{{Outcome: flow.Outcome{Kind: flow.KindDone}}}
	kind := flow.KindDone
	for _, t := range v1alpha1.ConditionTypes {
		typ := t.Type
		if t.DoneReason == "" && typ != v1alpha1.ConditionEgressEnforced {
			continue // no step reports it
		}
		if typ == open {
			out = append(out, agentstatus.StepOutcome{Condition: typ, Outcome: o})
			kind = flow.KindBlocked
			continue
		}
		out = append(out, agentstatus.StepOutcome{Condition: typ, Outcome: flow.Outcome{Kind: kind}})
	}
	return out
}

// only returns the outcomes that have one of these conditions.
func only(all []agentstatus.StepOutcome, types ...string) []agentstatus.StepOutcome {
	return slices.DeleteFunc(all, func(o agentstatus.StepOutcome) bool { return !slices.Contains(types, o.Condition) })
}

func TestSummary(t *testing.T) {
	proof := &state.Proof{Reason: v1alpha1.ReasonBothWalls, Message: "proven"}
	reference := host.SmolvmVersion{Version: "1.32.2", OwnUser: true}
	waits := func(reason string) flow.Outcome {
		return flow.Outcome{Kind: flow.KindWait, Reason: reason, Message: "m"}
	}
	tests := map[string]struct {
		in       agentstatus.Input
		stopped  bool
		want     map[string]string // Ready, Reconciling, Stalled, EgressEnforced as STATUS/REASON
		observed bool
	}{
		"all is done": {agentstatus.Input{Outcomes: outcomes("", flow.Outcome{}), Proof: proof},
			false, map[string]string{"Ready": "True/Ready", "EgressEnforced": "True/BothWalls"}, true},
		"a step waits": {agentstatus.Input{Outcomes: outcomes("BundleReady", waits(v1alpha1.ReasonBundleStarting))},
			false, map[string]string{"Ready": "False/BundleStarting", "Reconciling": "True/Progressing", "EgressEnforced": "Unknown/Blocked"}, false},
		"the user must act": {agentstatus.Input{Outcomes: outcomes("BundleReady", flow.Outcome{Kind: flow.KindTerminal, Reason: v1alpha1.ReasonBundleRejected, Message: "m"})},
			false, map[string]string{"Ready": "False/BundleRejected", "Stalled": "True/BundleRejected", "EgressEnforced": "Unknown/Blocked"}, true},
		"whether the walls hold is unknown": {agentstatus.Input{Outcomes: outcomes("EgressEnforced", waits(v1alpha1.ReasonProving))},
			false, map[string]string{"Ready": "False/Proving", "Reconciling": "True/Progressing", "EgressEnforced": "Unknown/Proving"}, false},
		"no proof can be made, which the agent allows": {agentstatus.Input{Outcomes: outcomes("EgressEnforced", waits(v1alpha1.ReasonProofImpossible)), ReadyUnproven: true},
			false, map[string]string{"Ready": "True/Unproven", "EgressEnforced": "Unknown/ProofImpossible"}, true},
		"a leak, while something else waits": {agentstatus.Input{Outcomes: outcomes("NetworkReady", waits(v1alpha1.ReasonDockerUnavailable)), Leak: "leaked"},
			false, map[string]string{"Ready": "False/LeakDetected", "Stalled": "True/LeakDetected", "EgressEnforced": "False/LeakDetected"}, true},
		"stopped": {agentstatus.Input{Outcomes: outcomes("", flow.Outcome{})},
			true, map[string]string{"Ready": "True/Stopped", "EgressEnforced": "Unknown/Stopped"}, true},
		"stopped, and something else is wrong": {agentstatus.Input{Outcomes: append(only(outcomes("", flow.Outcome{}), "BundleReady", "MachineReady"), only(outcomes("NetworkReady", waits(v1alpha1.ReasonDockerUnavailable)), "NetworkReady")...)},
			true, map[string]string{"Ready": "True/Stopped", "EgressEnforced": "Unknown/Stopped"}, true},
		"stopped, and a leak": {agentstatus.Input{Outcomes: outcomes("", flow.Outcome{}), Leak: "leaked"},
			true, map[string]string{"Ready": "False/LeakDetected", "Stalled": "True/LeakDetected", "EgressEnforced": "False/LeakDetected"}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := builders.MakeBottle("demo").Generation(3)
			if tt.stopped {
				b.Spec.DesiredState = v1alpha1.DesiredStateStopped
			}
			tt.in.Bottle, tt.in.Version, tt.in.PendingKnown = b.Obj(), reference, true
			list, observed := agentstatus.Conditions(tt.in, now)
			got := map[string]string{}
			for _, typ := range []string{"Ready", "Reconciling", "Stalled", "EgressEnforced"} {
				if c := meta.FindStatusCondition(list, typ); c != nil {
					got[typ] = string(c.Status) + "/" + c.Reason
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("conditions (-want +got):\n%s", d)
			}
			if observed != tt.observed {
				t.Errorf("generation observed: got %v, want %v", observed, tt.observed)
			}
			for _, c := range list {
				if c.ObservedGeneration != 3 || c.Message == "" && c.Reason != v1alpha1.ReasonBlocked {
					t.Errorf("condition %+v: want generation 3 and a message", c)
				}
			}
		})
	}
}

// A Bottle that leaves keeps a leak that was reported, and is not Ready.
func TestLeaving(t *testing.T) {
	b := builders.MakeBottle("demo").Generation(3).Obj()
	b.Status.Conditions = []metav1.Condition{
		{Type: "Ready", Status: "True", Reason: "Ready"}, {Type: "Stalled", Status: "True", Reason: "LeakDetected"},
		{Type: "NetworkReady", Status: "True", Reason: "Ready"}, {Type: "MachineReady", Status: "True", Reason: "MachineRunning"},
		{Type: "EgressEnforced", Status: "False", Reason: "LeakDetected"}, {Type: "Scheduled", Status: "True", Reason: "Scheduled"},
	}
	got := map[string]string{}
	for _, c := range agentstatus.Leaving(b, now, v1alpha1.ReasonTerminating, errors.New("it is being removed")) {
		got[c.Type] = string(c.Status) + "/" + c.Reason
	}
	want := map[string]string{
		"NetworkReady": "True/Ready", "MachineReady": "Unknown/Terminating", "EgressEnforced": "False/LeakDetected",
		"Ready": "False/Terminating", "Reconciling": "True/Terminating",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("conditions (-want +got):\n%s", d)
	}
}
