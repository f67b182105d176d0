// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
)

// Reasons of Events that no condition has, because they are over when they are
// told.
const (
	eventMachineLost       = v1alpha1.ReasonMachineLost
	eventWhiteSpaceDropped = v1alpha1.ReasonWhiteSpaceDropped
	eventNewerSmolvm       = v1alpha1.ReasonNewerSmolvm
	eventEgressRefused     = v1alpha1.ReasonEgressRefused
)

// expected are reasons on the way of every Bottle: no news.
var expected = map[string]bool{
	v1alpha1.ReasonBlocked:         true,
	v1alpha1.ReasonMachineStarting: true,
	v1alpha1.ReasonBundleStarting:  true,
	v1alpha1.ReasonStopping:        true,
	v1alpha1.ReasonProving:         true,
	// The pull itself tells, in the words that Pods have.
	v1alpha1.ReasonImagePulling:     true,
	v1alpha1.ReasonErrImagePull:     true,
	v1alpha1.ReasonImagePullBackOff: true,
}

// reportRefusals makes Events of what guests tried and were refused, until ctx
// ends.
func (r *Reconciler) reportRefusals(ctx context.Context) error {
	return r.Enforcement.ReportRefusals(ctx, func(owner host.Owner, destinations string) { r.refused(ctx, owner, destinations) })
}

func (r *Reconciler) refused(ctx context.Context, owner host.Owner, destinations string) {
	b := &v1alpha1.Bottle{}
	k := types.NamespacedName{Namespace: owner.Namespace, Name: owner.Name}
	if err := r.Client.Get(ctx, k, b); err != nil || string(b.UID) != owner.UID {
		return
	}
	logf.FromContext(ctx).Info("A guest tried what it may not reach", "machine", owner.ID(), "destinations", destinations)
	r.Recorder.Eventf(b, nil, corev1.EventTypeWarning, eventEgressRefused, "Guard", "%s", "the guest tried what it may not reach, and did not: "+destinations)
}

// tellConditions makes an Event of each condition that turned into news.
func (r *Reconciler) tellConditions(ctx context.Context, s *scope, before, after []metav1.Condition) {
	for _, typ := range []string{
		v1alpha1.ConditionNetworkReady, v1alpha1.ConditionSmolfileReady,
		v1alpha1.ConditionBundleReady, v1alpha1.ConditionMachineReady, v1alpha1.ConditionEgressEnforced, v1alpha1.ConditionPendingRestart,
	} {
		now := meta.FindStatusCondition(after, typ)
		was := meta.FindStatusCondition(before, typ)
		if now == nil || was != nil && was.Reason == now.Reason && was.Status == now.Status {
			continue
		}
		switch {
		case typ == v1alpha1.ConditionPendingRestart,
			typ == v1alpha1.ConditionMachineReady && now.Status == metav1.ConditionTrue,
			typ == v1alpha1.ConditionMachineReady && now.Reason == v1alpha1.ReasonStopped:
			r.event(s, corev1.EventTypeNormal, now.Reason, now.Message)
		case now.Status != metav1.ConditionTrue && now.Reason != v1alpha1.ReasonStopped && !expected[now.Reason]:
			r.warn(ctx, s, now.Reason, now.Message)
		}
	}
}
