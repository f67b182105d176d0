// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"errors"
	"time"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/enforce/probe"
)

// Outcome is how one proof ended.
type Outcome struct {
	Start, End time.Time
	// Proven, Reason and Message are as the condition EgressEnforced says it.
	Proven          bool
	Reason, Message string
	Findings        []probe.Finding
}

var (
	// ErrNothingToProve means that the Bottle has no machine that runs behind a wall, or
	// that its first proof has not been requested yet.
	ErrNothingToProve = errors.New("the Bottle's machine does not run behind its wall yet")
	// ErrProofInterrupted means that the proof was cancelled, because the machine stops.
	ErrProofInterrupted = errors.New("the proof was interrupted")
)

// Prove makes a proof of a Bottle now and returns how it ended. It counts like every
// other proof: if it does not succeed, the Bottle is not proven any more. Callers for the
// same Bottle share a proof that starts after all of their calls.
func (e *Enforcer) Prove(ctx context.Context, uid string) (Outcome, error) {
	return e.prover.demand(ctx, uid)
}

func (p *prover) demand(ctx context.Context, uid string) (Outcome, error) {
	asked := p.Clock.Now()
	for own := false; ; {
		p.mu.Lock()
		h := p.histories[uid]
		if h == nil || h.subject == nil {
			p.mu.Unlock()
			return Outcome{}, ErrNothingToProve
		}
		if h.outcome != nil && !h.outcome.Start.Before(asked) {
			out := *h.outcome
			p.mu.Unlock()
			return out, nil
		}
		if !p.jobs.Running(uid) {
			if own {
				p.mu.Unlock()
				return Outcome{}, ErrProofInterrupted
			}
			own = true
			p.start(h, *h.subject)
		}
		ended := p.ended(uid)
		p.mu.Unlock()
		select {
		case <-ended:
		case <-ctx.Done():
			return Outcome{}, context.Cause(ctx)
		}
	}
}

// ended returns what is closed when the Bottle's running proof ends. The caller holds
// p.mu.
func (p *prover) ended(uid string) <-chan struct{} {
	if p.ends[uid] == nil {
		p.ends[uid] = make(chan struct{})
	}
	return p.ends[uid]
}

// announceEnd wakes who waits for the end of a proof.
func (p *prover) announceEnd(uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.ends[uid]; c != nil {
		close(c)
		delete(p.ends, uid)
	}
}

// outcomeOf describes how a proof ended.
func outcomeOf(h *history, leaked bool) Outcome {
	switch {
	case h.proof != nil:
		return Outcome{Proven: true, Reason: h.proof.Reason, Message: h.proof.Message}
	case leaked:
		return Outcome{Reason: v1alpha1.ReasonLeakDetected, Message: "the guest reached what it must not reach; its machine was stopped"}
	}
	return Outcome{Reason: h.failure.Reason, Message: h.failure.Message}
}
