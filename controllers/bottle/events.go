// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"cmp"
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/agentstatus"
	"botbottle.dev/bottle-operator/internal/host"
)

// Reasons of Events without a condition: they report something that is over.
const (
	eventMachineLost       = v1alpha1.ReasonMachineLost
	eventWhiteSpaceDropped = v1alpha1.ReasonWhiteSpaceDropped
	eventNewerSmolvm       = v1alpha1.ReasonNewerSmolvm
	eventEgressRefused     = v1alpha1.ReasonEgressRefused
)

// reporter records Events.
type reporter struct {
	recorder events.EventRecorder
	reader   client.Reader
	node     string
}

// refused records an Event about destinations that a guest was refused.
func (r *reporter) refused(ctx context.Context, owner host.Owner, destinations string) {
	logf.FromContext(ctx).Info("A guest tried to reach forbidden destinations", "machine", owner.ID(), "destinations", destinations)
	r.guest(ctx, owner, eventEgressRefused, "Guard", "the guest tried to reach forbidden destinations and was refused: "+destinations)
}

// denied records an Event about requests that a bundle did not let through.
func (r *reporter) denied(ctx context.Context, owner host.Owner, verdict, refusals string) {
	reason := map[string]string{host.VerdictFail: v1alpha1.ReasonEgressFailed, host.VerdictAllow: v1alpha1.ReasonSecretSent}[verdict]
	r.guest(ctx, owner, cmp.Or(reason, v1alpha1.ReasonEgressDenied), "Proxy", agentstatus.Bounded(refusals))
}

// guest records a warning about what a guest did.
func (r *reporter) guest(ctx context.Context, owner host.Owner, reason, action, note string) {
	b := &v1alpha1.Bottle{}
	k := types.NamespacedName{Namespace: owner.Namespace, Name: owner.Name}
	if err := r.reader.Get(ctx, k, b); err != nil || string(b.UID) != owner.UID {
		return
	}
	r.recorder.Eventf(b, nil, corev1.EventTypeWarning, reason, action, "%s", note)
}

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
	r.recorder.Eventf(s.bottle, nil, kind, reason, "Reconcile", "%s", message)
}

func (r *reporter) warn(ctx context.Context, s *scope, reason, message string) {
	logf.FromContext(ctx).Info("The Bottle has a new problem", "reason", reason, "message", message)
	r.event(s, corev1.EventTypeWarning, reason, message)
}

// newerSmolvm records an Event about a smolvm newer than any tested version.
func (r *reporter) newerSmolvm(ctx context.Context, v host.SmolvmVersion) {
	logf.FromContext(ctx).Info("This smolvm is newer than any tested version", "version", v.Version)
	node := &corev1.Node{}
	node.Name = r.node
	r.recorder.Eventf(node, nil, corev1.EventTypeWarning, eventNewerSmolvm, "Fingerprint",
		"smolvm %s is newer than any tested version: bottles run, but watch them", v.Version)
}

// image records an Event about a Bottle's image. It does not block.
func (r *reporter) image(k types.NamespacedName, uid, reason, message string) {
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		b := &v1alpha1.Bottle{}
		if err := r.reader.Get(ctx, k, b); err != nil || string(b.UID) != uid {
			return
		}
		kind := corev1.EventTypeNormal
		if reason == "Failed" || reason == "BackOff" {
			kind = corev1.EventTypeWarning
		}
		if reason == "Failed" { // once for each attempt
			logf.Log.WithName("images").Info("An image could not be pulled", "bottle", k, "message", message)
		}
		r.recorder.Eventf(b, nil, kind, reason, "Pull", "%s", agentstatus.Bounded(message))
	}()
}
