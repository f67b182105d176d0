// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

// The pauses that tests skip with a fake clock.
const (
	BetweenProofs       = betweenProofs
	FirstProofPause     = firstProofPause
	RefusalsEvery       = refusalsEvery
	RepeatRefusalsAfter = repeatRefusalsAfter
)

// Settle waits until no proof is running and the machines of all leaks so far
// are killed.
func (e *Enforcer) Settle() {
	e.WaitProofs()
	e.leaks.killing.Wait()
}

// Expect registers nonce as that of a running proof.
func (e *Enforcer) Expect(uid, nonce, smolvm, backend string) error {
	return e.watched.expect(uid, nonce, smolvm, backend)
}

// FoundLeak acts on a leak.
func (e *Enforcer) FoundLeak(uid, path string) { e.leaks.onLeak(uid, path) }

// RefusalsRound makes one round of refusal reports.
func (e *Enforcer) RefusalsRound(ctx context.Context, report func(host.Owner, string)) {
	e.refusals.round(ctx, report)
}

// State is what the Enforcer knows about a Bottle.
type State struct {
	Watched bool
	Wall    host.Wall
	Breach  *Breach
	Leak    *state.Leak
	Dropped uint64
	// Requested means that another proof was requested.
	Requested bool
}

// State returns what the Enforcer knows about a Bottle.
func (e *Enforcer) State(uid string) State {
	e.prover.mu.Lock()
	h := e.prover.histories[uid]
	requested := h != nil && h.requested
	e.prover.mu.Unlock()
	e.watched.mu.Lock()
	defer e.watched.mu.Unlock()
	m := e.watched.machines[uid]
	if m == nil {
		return State{Requested: requested}
	}
	return State{Watched: m.wall.Spec.Owner.UID != "", Wall: m.read, Breach: m.breach, Leak: m.leak, Dropped: m.dropped, Requested: requested}
}

// Plan returns what a proof tries.
func (e *Enforcer) Plan(ctx context.Context, s Subject) (probe.Plan, error) {
	return e.prover.plan(ctx, s, "0123456789abcdef0123456789abcdef")
}

// Neighbours returns the walls of at most that many other Bottles.
func (e *Enforcer) Neighbours(of host.WallSpec, most int) []host.WallSpec {
	return e.watched.neighbours(of, most)
}
