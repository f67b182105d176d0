// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/agentstatus"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
)

// leave takes the Bottle off the node, because it is being deleted or because
// the manager wants it elsewhere.
func (r *Reconciler) leave(ctx context.Context, s *scope) (ctrl.Result, error) {
	deleting := !s.bottle.DeletionTimestamp.IsZero()
	if deleting && (r.hasLeft(s.bottle) || !controllerutil.ContainsFinalizer(s.bottle, v1alpha1.FinalizerNode)) {
		return ctrl.Result{}, nil
	}
	if err := flow.Run(ctx, s, r.teardown(), s.recordOutcome); err != nil {
		return r.stillLeaving(ctx, s, err)
	}
	r.References.Use(s.key(), nil)
	if controllerutil.ContainsFinalizer(s.bottle, v1alpha1.FinalizerNode) {
		b := s.bottle.DeepCopy()
		controllerutil.RemoveFinalizer(b, v1alpha1.FinalizerNode)
		if err := r.patchMeta(ctx, s, b); client.IgnoreNotFound(err) != nil {
			return conflicted(fmt.Errorf("remove the finalizer from bottle %s: %w", s.key(), err))
		}
	}
	if deleting {
		r.noteLeft(s.bottle)
	} else {
		if err := r.clearStatus(ctx, s.bottle); client.IgnoreNotFound(err) != nil {
			return conflicted(err)
		}
	}
	r.forget(s.key())
	logf.FromContext(ctx).Info("Left the node", "machine", s.name())
	// Somebody may wait for the subnet or the memory that is free now.
	r.enqueueAll()
	return ctrl.Result{}, nil
}

// hasLeft says whether the teardown of a Bottle that is being deleted was done
// already: the cache may show it a little longer.
func (r *Reconciler) hasLeft(b *v1alpha1.Bottle) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.left[key(b)] == b.UID
}

func (r *Reconciler) noteLeft(b *v1alpha1.Bottle) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left[key(b)] = b.UID
}

// stillLeaving says what the teardown waits for.
func (r *Reconciler) stillLeaving(ctx context.Context, s *scope, err error) (ctrl.Result, error) {
	if ctx.Err() != nil {
		return ctrl.Result{}, context.Cause(ctx)
	}
	reason := v1alpha1.ReasonTerminating
	if s.bottle.DeletionTimestamp.IsZero() {
		reason = v1alpha1.ReasonEvicted
	}
	if werr := r.writeStatus(ctx, s, agentstatus.Leaving(s.bottle, r.Clock.Now(), reason, err)); client.IgnoreNotFound(werr) != nil {
		return conflicted(werr)
	}
	return r.result(err)
}

// clearStatus gives the Bottle back to the manager: one merge patch that nulls
// the node and all that the agent said, unless somebody wrote in between.
func (r *Reconciler) clearStatus(ctx context.Context, b *v1alpha1.Bottle) error {
	keep := slices.DeleteFunc(slices.Clone(b.Status.Conditions), func(c metav1.Condition) bool {
		return slices.Contains(agentstatus.Types, c.Type)
	})
	if meta.FindStatusCondition(keep, v1alpha1.ConditionScheduled) == nil {
		return fmt.Errorf("bottle %s: has no condition %s", key(b), v1alpha1.ConditionScheduled)
	}
	var egress any
	if e := b.Status.Egress; e != nil && e.Leak != nil {
		egress = map[string]any{"recentDenials": nil} // a leak goes along
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": b.ResourceVersion},
		"status": map[string]any{
			"nodeName": nil, "observedGeneration": nil, "startTime": nil, "network": nil, "smolfile": nil,
			"bundle": nil, "image": nil, "machine": nil, "conditions": keep,
			"egress": egress,
		},
	})
	if err != nil {
		return err
	}
	return r.Client.Status().Patch(ctx, b.DeepCopy(), client.RawPatch("application/merge-patch+json", patch))
}

// deleteMachine removes the machine, first calling off a pull for it and a
// start of it. Without a smolvm there is nothing to remove for a Bottle that
// never had a machine.
func (r *Reconciler) deleteMachine(ctx context.Context, s *scope) error {
	say := r.ofSmolvm(ctx)
	r.Images.Forget(s.owner.UID)
	if err := r.starts.Cancel(ctx, s.owner.UID); err != nil {
		return err
	}
	if err := r.Enforcement.CancelProof(ctx, s.owner.UID); err != nil {
		return err
	}
	r.view.Invalidate(s.name())
	m, present, err := r.view.Get(ctx, s.name())
	if errors.Is(err, host.ErrUnavailable) && s.record == nil {
		return nil
	}
	if err != nil {
		return mapped(err, say)
	}
	if present && !ours(m, s) {
		return nil
	}
	// A machine with a record of ours and none of smolvm's may have been deleted
	// half way: what is left of its data goes, too.
	s.forgetRun()
	if err := s.saveRecord(); err != nil {
		return err
	}
	defer r.view.Invalidate(s.name())
	return mapped(r.Machines.DeleteMachine(ctx, s.name()), say)
}

// deleteBundle removes the container and looks that it is gone.
func (r *Reconciler) deleteBundle(ctx context.Context, s *scope) error {
	say := r.ofDocker(ctx, "")
	r.follows.end(s.owner.UID)
	if err := r.Bundles.DeleteBundle(ctx, s.owner); err != nil {
		return mapped(err, say)
	}
	_, err := r.Bundles.InspectBundle(ctx, s.owner)
	return gone(err, say, "the bundle's container")
}

// deleteNetwork removes the network and looks that it is gone.
func (r *Reconciler) deleteNetwork(ctx context.Context, s *scope) error {
	say := r.ofDocker(ctx, "")
	if err := r.Networks.DeleteNetwork(ctx, s.owner); err != nil {
		return mapped(err, say)
	}
	_, err := r.Networks.InspectNetwork(ctx, s.owner)
	return gone(err, say, "the bundle's network")
}

// gone is nil when a look after a deletion found nothing of ours.
func gone(looked error, say meaning, what string) error {
	switch {
	case looked == nil:
		return &flow.Waiting{Reason: v1alpha1.ReasonTerminating, Message: what + " is being removed", After: soon}
	case errors.Is(looked, host.ErrNotFound), errors.Is(looked, host.ErrConflict):
		return nil
	}
	return mapped(looked, say)
}

func (r *Reconciler) deleteFolder(_ context.Context, s *scope) error {
	return s.folder.Remove()
}
