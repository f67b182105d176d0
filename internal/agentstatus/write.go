// SPDX-License-Identifier: Apache-2.0

package agentstatus

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
)

// Owned returns the conditions that the agent computes, in the order of Types.
func Owned(observed []metav1.Condition) []metav1.Condition {
	var out []metav1.Condition
	for _, typ := range Types {
		if c := meta.FindStatusCondition(observed, typ); c != nil {
			out = append(out, *c)
		}
	}
	return out
}

// firstReportDelay is how long the first report waits for the Bottle's Pod and machine to
// start.
const firstReportDelay = 10 * time.Second

// FirstReportWait returns how much longer to hold back the first report on a Bottle in a Pod,
// so that one write reports more. err is the outcome of the pass. A problem is not held back.
func FirstReportWait(b *v1alpha1.Bottle, err error, now time.Time) time.Duration {
	scheduled := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionScheduled)
	if scheduled == nil || meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionMachineReady) != nil {
		return 0
	}
	switch flow.OutcomeOf(err).Reason {
	case v1alpha1.ReasonPodStarting, v1alpha1.ReasonBundleStarting, v1alpha1.ReasonMachineStarting:
		// If our clock and the manager's differ much, nothing waits.
		return max(0, firstReportDelay-now.Sub(scheduled.LastTransitionTime.Time).Abs())
	}
	return 0
}

// WorkloadWaits reports whether to hold back the first report on a running workload, because
// err, the outcome of the pass, says that a report on the machine or the proof follows soon.
func WorkloadWaits(b *v1alpha1.Bottle, err error) bool {
	reason := flow.OutcomeOf(err).Reason
	return b.Status.Workload == nil && (reason == v1alpha1.ReasonMachineStarting || reason == v1alpha1.ReasonProving)
}

// OwnedFields returns what the agent writes of a status, without conditions.
func OwnedFields(st v1alpha1.BottleStatus) v1alpha1.BottleStatus {
	out := *st.DeepCopy()
	out.NodeName, out.Resources, out.Conditions = nil, nil, nil
	return out
}

// Changed returns the status to write, made up of fields and conditions, and whether it
// differs from the part of the observed status that the agent owns.
func Changed(observed, fields v1alpha1.BottleStatus, conditions []metav1.Condition) (after v1alpha1.BottleStatus, differs bool) {
	before := OwnedFields(observed)
	before.Conditions, fields.Conditions = byType(Owned(observed.Conditions)), byType(conditions)
	return fields, !equality.Semantic.DeepEqual(before, fields)
}

func byType(conds []metav1.Condition) []metav1.Condition {
	out := slices.Clone(conds)
	slices.SortFunc(out, func(a, b metav1.Condition) int { return cmp.Compare(a.Type, b.Type) })
	return out
}

// ClearPatch returns a merge patch that removes the node from a Bottle's status, and all
// that the agent reported. It applies only to the version of b. Ready says what Scheduled
// does: tools that wait for objects would take a Bottle without it for ready.
func ClearPatch(b *v1alpha1.Bottle, now time.Time) ([]byte, error) {
	keep := slices.DeleteFunc(slices.Clone(b.Status.Conditions), func(c metav1.Condition) bool { return slices.Contains(Types, c.Type) })
	scheduled := meta.FindStatusCondition(keep, v1alpha1.ConditionScheduled)
	if scheduled == nil {
		return nil, fmt.Errorf("bottle %s/%s: has no condition %s", b.Namespace, b.Name, v1alpha1.ConditionScheduled)
	}
	keep = append(keep, metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: scheduled.Reason,
		Message: scheduled.Message, ObservedGeneration: scheduled.ObservedGeneration, LastTransitionTime: metav1.NewTime(now)})
	var egress any
	if e := b.Status.Egress; e != nil && e.Leak != nil {
		egress = map[string]any{"recentDenials": nil, "closedByPlatform": nil, "credentials": nil} // a leak moves with the Bottle
	}
	return json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": b.ResourceVersion},
		"status": map[string]any{
			"nodeName": nil, "observedGeneration": nil, "startTime": nil, "network": nil, "smolfile": nil,
			"bundle": nil, "image": nil, "machine": nil, "workload": nil, "conditions": keep,
			"egress": egress,
		},
	})
}
