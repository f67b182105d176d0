// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"fmt"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
)

// ensureWall makes the wall stand before there is a machine behind it. From
// then on the guard keeps it, whatever a pass waits for.
func (r *Reconciler) ensureWall(ctx context.Context, s *scope) error {
	w, err := r.Guard.Ensure(ctx, s.wallSpec(), asked(s.bottle))
	s.leak = r.Guard.State(s.owner.UID).Leak
	if err == nil {
		s.wall = w
		return nil
	}
	if errors.Is(err, host.ErrNotFound) {
		return &flow.Waiting{Reason: v1alpha1.ReasonWallNotReady, After: soon, Message: err.Error()}
	}
	return mapped(err, meaning{conflict: v1alpha1.ReasonWallConflict, unavailable: v1alpha1.ReasonWallNotReady})
}

func (s *scope) wallSpec() host.WallSpec {
	return host.WallSpec{
		Owner: s.owner, Subnet: s.triple.Subnet,
		BundleIP: s.triple.BundleIP, Ports: bundlePorts(s.bottle), MachineIP: s.triple.MachineIP,
	}
}

// asked is what a user can change to have a Bottle tried again after a leak.
func asked(b *v1alpha1.Bottle) string {
	return fmt.Sprintf("generation %d, prove %q", b.Generation, b.Annotations[v1alpha1.AnnotationProve])
}

// deleteWall takes the wall down once no machine is behind it.
func (r *Reconciler) deleteWall(ctx context.Context, s *scope) error {
	if err := r.Guard.Release(ctx, s.owner); err != nil {
		return err
	}
	r.proofs.forget(s.owner.UID)
	r.drops.forget(s.owner.UID)
	return nil
}

// holdLeaked keeps the machine of a Bottle that leaked stopped.
func (r *Reconciler) holdLeaked(ctx context.Context, s *scope) error {
	if err := r.ensureMachineDown(ctx, s); err != nil {
		return err
	}
	return &flow.Terminal{Reason: v1alpha1.ReasonLeakDetected, Err: errors.New(leakMessage(s))}
}

// leakMessage is the evidence, and the way out.
func leakMessage(s *scope) string {
	l := s.leak
	return fmt.Sprintf("the guest reached %s at %s (smolvm %s, %s); the machine was stopped, and starts again once the spec or the annotation %s changes",
		l.Path, l.Time.Format("2006-01-02T15:04:05Z"), or(l.Smolvm, "of unknown version"), or(l.Backend, "unknown backend"), v1alpha1.AnnotationProve)
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
