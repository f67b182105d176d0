// SPDX-License-Identifier: Apache-2.0

package kstatus

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/agentstatus"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/test/builders"
)

// Conditions in this table are "TYPE STATUS REASON"; their other fields are valid.
func TestCheck(t *testing.T) {
	two, three := int64(2), int64(3)
	tests := map[string]struct {
		conditions []string
		change     func(*v1alpha1.Bottle)
		want       string // part of the only problem; "" for none
	}{
		"no conditions":           {nil, nil, ""},
		"ready":                   {[]string{"Ready True Ready"}, nil, ""},
		"reconciling":             {[]string{"Ready False Pending", "Reconciling True Progressing"}, nil, ""},
		"stalled":                 {[]string{"Ready False EnvInvalid", "Stalled True EnvInvalid"}, nil, ""},
		"stalled, agent lost":     {[]string{"Ready Unknown AgentLost", "Stalled True EnvInvalid"}, nil, ""},
		"between two nodes":       {[]string{"Scheduled False Evicted"}, nil, ""},
		"no Ready":                {[]string{"Scheduled True Scheduled", "MachineReady True MachineRunning"}, nil, "Ready is missing"},
		"twice":                   {[]string{"Ready True Ready", "Ready True Ready"}, nil, "twice"},
		"ready and reconciling":   {[]string{"Ready True Ready", "Reconciling True Progressing"}, nil, "Ready and Reconciling"},
		"ready and stalled":       {[]string{"Ready True Stopped", "Stalled True LeakDetected"}, nil, "Ready and Stalled"},
		"reconciling and stalled": {[]string{"Ready False Pending", "Reconciling True Progressing", "Stalled True LeakDetected"}, nil, "Reconciling and Stalled"},
		"not stalled":             {[]string{"Ready True Ready", "Stalled False Ready"}, nil, "absent unless True"},
		"stalled and unknown":     {[]string{"Ready Unknown Blocked", "Stalled True EnvInvalid"}, nil, "want Ready=False"},
		"blocked is unknown":      {[]string{"Ready True Ready", "MachineReady False Blocked"}, nil, "want Unknown"},
		"an error is not success": {[]string{"Ready True Error"}, nil, "reason Error"},
		"no such status":          {[]string{"Ready Maybe Ready"}, nil, `status "Maybe"`},
		"a reason not CamelCase":  {[]string{"Ready True not-ready"}, nil, "CamelCase"},
		"no message":              {[]string{"Ready True Ready"}, func(b *v1alpha1.Bottle) { b.Status.Conditions[0].Message = "" }, "no message"},
		"no time": {[]string{"Ready True Ready"}, func(b *v1alpha1.Bottle) { b.Status.Conditions[0].LastTransitionTime = metav1.Time{} },
			"no lastTransitionTime"},
		"a condition ahead": {[]string{"Ready True Ready"}, func(b *v1alpha1.Bottle) { b.Status.Conditions[0].ObservedGeneration = 3 }, "observed generation 3"},
		"the status ahead":  {[]string{"Ready True Ready"}, func(b *v1alpha1.Bottle) { b.Status.ObservedGeneration = &three }, "observedGeneration is 3"},
		"observed":          {[]string{"Ready True Ready"}, func(b *v1alpha1.Bottle) { b.Status.ObservedGeneration = &two }, ""},
		"ready, not observed": {[]string{"Ready True Ready"}, func(b *v1alpha1.Bottle) { b.Status.ObservedGeneration = new(int64(1)) },
			"Ready is True at generation 2"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := builders.MakeBottle("a").Generation(2).Obj()
			for _, text := range tt.conditions {
				words := strings.Fields(text)
				b.Status.Conditions = append(b.Status.Conditions, metav1.Condition{
					Type: words[0], Status: metav1.ConditionStatus(words[1]), Reason: words[2],
					Message: "set by a test", ObservedGeneration: 2, LastTransitionTime: metav1.NewTime(time.Unix(1, 0)),
				})
			}
			if tt.change != nil {
				tt.change(b)
			}
			got := Check(b)
			if tt.want == "" && len(got) > 0 || tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], tt.want)) {
				t.Errorf("got %q, want one problem with %q", got, tt.want)
			}
		})
	}
}

// TestFinished: what the agent reports of a Bottle that has finished means to kstatus what
// it means to the user, also while files are copied.
func TestFinished(t *testing.T) {
	now := time.Unix(1_800_000_000, 0).UTC()
	for reason, want := range map[string]status.Status{
		v1alpha1.ReasonCompleted:        status.CurrentStatus,
		v1alpha1.ReasonFailed:           status.FailedStatus,
		v1alpha1.ReasonDeadlineExceeded: status.FailedStatus,
	} {
		for text, open := range map[string]bool{"the machine is stopped": false, "so that files can be copied": true} {
			b := builders.MakeBottle("a").Generation(2).Obj()
			in := agentstatus.Input{Bottle: b, Finished: &state.End{Reason: reason, Message: "said by the agent", Time: now}, FilesOpen: open,
				Proof: &state.Proof{Reason: v1alpha1.ReasonBothWalls, Message: "proven"}}
			for _, condition := range v1alpha1.ConditionTypes {
				if condition.DoneReason != "" || condition.Type == v1alpha1.ConditionEgressEnforced {
					in.Outcomes = append(in.Outcomes, agentstatus.StepOutcome{Condition: condition.Type, Outcome: flow.Outcome{Kind: flow.KindDone}})
				}
			}
			list, observed := agentstatus.Conditions(in, now)
			if b.Status.Conditions = list; observed {
				b.Status.ObservedGeneration = new(int64(2))
			}
			Require(t, b)
			object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(b)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := status.Compute(&unstructured.Unstructured{Object: object}); err != nil || got.Status != want {
				t.Errorf("%s, files open %t: got %+v, %v, want %s", reason, open, got, err, want)
			}
			for _, c := range list {
				if c.Type == v1alpha1.ConditionReady && want == status.CurrentStatus && !strings.Contains(c.Message, text) {
					t.Errorf("%s, files open %t: got Ready with the message %q, want %q in it", reason, open, c.Message, text)
				}
			}
		}
	}
}
