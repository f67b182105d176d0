// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/bottleevents"
)

// Reasons of Events without a condition: they report something that is over.
const (
	eventMachineLost       = v1alpha1.ReasonMachineLost
	eventWhiteSpaceDropped = v1alpha1.ReasonWhiteSpaceDropped
)

// reporter records the Events of passes, and those of bottleevents that no pass causes.
type reporter struct{ bottleevents.Reporter }

// conditions records an Event for each noteworthy change of a condition.
func (r *reporter) conditions(ctx context.Context, s *scope, before, after []metav1.Condition) {
	for _, t := range v1alpha1.ConditionTypes {
		typ := t.Type
		now := meta.FindStatusCondition(after, typ)
		was := meta.FindStatusCondition(before, typ)
		if !t.Events || now == nil || was != nil && was.Reason == now.Reason && was.Status == now.Status {
			continue
		}
		switch {
		case typ == v1alpha1.ConditionFinished && now.Reason != v1alpha1.ReasonCompleted:
			r.warn(ctx, s, now.Reason, now.Message)
		case typ == v1alpha1.ConditionFinished, typ == v1alpha1.ConditionPendingRestart,
			typ == v1alpha1.ConditionMachineReady && now.Status == metav1.ConditionTrue,
			typ == v1alpha1.ConditionMachineReady && now.Reason == v1alpha1.ReasonStopped:
			r.event(s, corev1.EventTypeNormal, now.Reason, now.Message)
		case typ == v1alpha1.ConditionEgressLimited, now.Reason == v1alpha1.ReasonSubnetReserved,
			now.Status != metav1.ConditionTrue && now.Reason != v1alpha1.ReasonStopped && !v1alpha1.RoutineReasons[now.Reason]:
			r.warn(ctx, s, now.Reason, now.Message)
		}
	}
}

func (r *reporter) event(s *scope, kind, reason, message string) {
	r.Recorder.Eventf(s.bottle, nil, kind, reason, "Reconcile", "%s", message)
}

func (r *reporter) warn(ctx context.Context, s *scope, reason, message string) {
	logf.FromContext(ctx).Info("The Bottle has a new problem", "reason", reason, "message", message)
	r.event(s, corev1.EventTypeWarning, reason, message)
}
