// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/agentstatus"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

// ensureWall makes the wall stand before there is a machine behind it. From
// then on the guard keeps it, whatever a pass waits for.
func (r *Reconciler) ensureWall(ctx context.Context, s *scope) error {
	w, err := r.Enforcement.EnsureWall(ctx, s.wallSpec(), requestOf(s.bottle))
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
		BundleIP: s.triple.BundleIP, Ports: desired.BundlePorts(s.bottle), MachineIP: s.triple.MachineIP,
	}
}

// requestOf is what a user can change to have a Bottle tried again after a leak.
func requestOf(b *v1alpha1.Bottle) enforce.Request {
	return enforce.Request{Generation: b.Generation, Prove: b.Annotations[v1alpha1.AnnotationProve]}
}

// findLeak takes up the leak that counts: one that the guard knows of, or one
// of an earlier node, which the status carries along.
func (r *Reconciler) findLeak(s *scope) {
	request := requestOf(s.bottle)
	s.leak = r.Enforcement.Leak(s.owner.UID, request)
	if e := s.bottle.Status.Egress; s.leak == nil && e != nil && e.Leak != nil && e.Leak.Asked == request.String() {
		s.leak = &state.Leak{Time: e.Leak.Time.Time, Path: e.Leak.Path, ReportedFor: request.String(),
			Smolvm: ptr.Deref(e.Leak.SmolvmVersion, ""), Backend: ptr.Deref(e.Leak.Backend, "")}
	}
	s.tellLeak()
}

// tellLeak has the status say the leak that counts, and no other.
func (s *scope) tellLeak() {
	var leak *v1alpha1.EgressLeak
	if l := s.leak; l != nil {
		leak = &v1alpha1.EgressLeak{Time: *timeOf(l.Time), Path: agentstatus.Bounded(l.Path), Asked: requestOf(s.bottle).String()}
		if l.Smolvm != "" {
			leak.SmolvmVersion = &l.Smolvm
		}
		if l.Backend != "" {
			leak.Backend = &l.Backend
		}
	}
	var denials []string
	if s.status.Egress != nil {
		denials = s.status.Egress.RecentDenials
	}
	s.status.Egress = nil
	if leak != nil || len(denials) > 0 {
		s.status.Egress = &v1alpha1.EgressStatus{RecentDenials: denials, Leak: leak}
	}
}

// deleteWall takes the wall down once no machine is behind it.
func (r *Reconciler) deleteWall(ctx context.Context, s *scope) error {
	return r.Enforcement.Release(ctx, s.owner)
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
