// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"fmt"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/agentstatus"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/passes"
)

// leave removes the Bottle from the node, because it is being deleted or because
// the manager evicted it.
func (r *Reconciler) leave(ctx context.Context, s *scope) (ctrl.Result, error) {
	deleting := !s.bottle.DeletionTimestamp.IsZero()
	if deleting && r.departed.Has(s.bottle) {
		return ctrl.Result{}, nil
	}
	if err := flow.Run(ctx, s, r.steps.teardown(), s.recordOutcome); err != nil {
		return r.reportLeaving(ctx, s, err)
	}
	if controllerutil.ContainsFinalizer(s.bottle, v1alpha1.FinalizerNode) {
		b := s.bottle.DeepCopy()
		controllerutil.RemoveFinalizer(b, v1alpha1.FinalizerNode)
		if err := patchMeta(ctx, r.Client, s, b); client.IgnoreNotFound(err) != nil {
			return passes.RetryConflict(fmt.Errorf("remove the finalizer from bottle %s: %w", s.key(), err))
		}
	}
	if deleting {
		r.departed.Add(s.bottle)
	} else {
		if err := r.status.clear(ctx, s.bottle, r.Clock.Now()); client.IgnoreNotFound(err) != nil {
			return passes.RetryConflict(err)
		}
	}
	r.forget(s.key())
	r.steps.room.Forget(s.owner.UID)
	logf.FromContext(ctx).Info("Left the node", "machine", s.name())
	// Another Bottle may wait for the subnet or the memory that is free now.
	r.requests.EnqueueAll()
	return ctrl.Result{}, nil
}

// reportLeaving reports what the teardown waits for.
func (r *Reconciler) reportLeaving(ctx context.Context, s *scope, err error) (ctrl.Result, error) {
	if ctx.Err() != nil {
		return ctrl.Result{}, context.Cause(ctx)
	}
	reason := v1alpha1.ReasonTerminating
	if s.bottle.DeletionTimestamp.IsZero() {
		reason = v1alpha1.ReasonEvicted
	}
	if werr := r.status.write(ctx, s, agentstatus.Leaving(s.bottle, r.Clock.Now(), reason, err)); client.IgnoreNotFound(werr) != nil {
		return passes.RetryConflict(werr)
	}
	return passes.Result(err)
}
