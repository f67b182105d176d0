// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"time"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/agentstatus"
	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/enforce/probe"
	"botbottle.dev/bottle-operator/internal/flow"
)

// proofStep requests proofs that the walls hold.
type proofStep struct {
	enforcement enforce.Enforcement
}

// ensure is satisfied once it is proven that the guest can reach nothing but
// the bundle. The prober runs inside the guest, and what the node observed is
// the evidence. Each agent makes a proof for each run of the machine, wall and
// bundle, and on request. An earlier proof stands while it is repeated.
func (p *proofStep) ensure(_ context.Context, s *scope) error {
	if findLeak(p.enforcement, s); s.leak != nil {
		return &flow.Terminal{Reason: v1alpha1.ReasonLeakDetected, Err: errors.New(leakMessage(s))}
	}
	if s.record == nil || s.record.Run == nil || s.record.Run.PID == 0 {
		return &flow.Waiting{Reason: v1alpha1.ReasonProving, After: soon, Message: "the machine's process is not known yet"}
	}
	st := p.enforcement.EnsureProven(s.subject())
	if err := s.keepProof(st.Proof); err != nil {
		return err
	}
	if st.Proof != nil {
		s.requeueWithin(st.After)
		return nil
	}
	if st.Failure != nil {
		return &flow.Waiting{Reason: st.Failure.Reason, Message: agentstatus.Bounded(st.Failure.Message), After: st.After}
	}
	return &flow.Waiting{Reason: v1alpha1.ReasonProving, Message: "the walls are being tested from inside the guest", After: st.After}
}

// subject returns what a proof for the Bottle covers.
func (s *scope) subject() enforce.Subject {
	return enforce.Subject{
		Spec: s.wallSpec(), NetNS: s.wall.NetNS, Run: *s.record.Run, Container: s.container,
		Policy: probe.Policy(s.record.Policy), Version: s.version,
		Demand: s.bottle.Annotations[v1alpha1.AnnotationProve], Kept: s.record.Proof,
	}
}

// requeueWithin makes the next pass due within d. 0 changes nothing.
func (s *scope) requeueWithin(d time.Duration) {
	if d > 0 && (s.requeueAfter == 0 || d < s.requeueAfter) {
		s.requeueAfter = d
	}
}
