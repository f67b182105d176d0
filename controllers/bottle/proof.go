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

// proofStep has the walls proven.
type proofStep struct {
	enforcement enforce.Enforcement
}

// ensure is satisfied once it is proven from inside the guest, by what
// the node saw, that nothing but the bundle can be reached. A proof is made for
// each life of the machine, wall and bundle, by each agent, and on request.
// What was proven stands while it is proven again.
func (p *proofStep) ensure(_ context.Context, s *scope) error {
	if findLeak(p.enforcement, s); s.leak != nil {
		return &flow.Terminal{Reason: v1alpha1.ReasonLeakDetected, Err: errors.New(leakMessage(s))}
	}
	if s.record == nil || s.record.Run == nil || s.record.Run.PID == 0 {
		return &flow.Waiting{Reason: v1alpha1.ReasonProving, After: soon, Message: "it is not known yet which process the machine is"}
	}
	st := p.enforcement.EnsureProven(s.subject())
	if err := s.keepProof(st.Proof); err != nil {
		return err
	}
	if st.Proof != nil {
		s.lookAgainAfter(st.After)
		return nil
	}
	if st.Failure != nil {
		return &flow.Waiting{Reason: st.Failure.Reason, Message: agentstatus.Bounded(st.Failure.Message), After: st.After}
	}
	return &flow.Waiting{Reason: v1alpha1.ReasonProving, Message: "the walls are being tried from inside the guest", After: st.After}
}

// subject is what a proof of the Bottle is about.
func (s *scope) subject() enforce.Subject {
	return enforce.Subject{
		Spec: s.wallSpec(), NetNS: s.wall.NetNS, Run: *s.record.Run, Container: s.container,
		Policy: probe.Policy(s.record.Policy), Version: s.version,
		Demand: s.bottle.Annotations[v1alpha1.AnnotationProve], Kept: s.record.Proof,
	}
}

// lookAgainAfter makes the next pass come no later than that, though this one
// is satisfied. 0 changes nothing.
func (s *scope) lookAgainAfter(d time.Duration) {
	if d > 0 && (s.lookAgain == 0 || d < s.lookAgain) {
		s.lookAgain = d
	}
}
