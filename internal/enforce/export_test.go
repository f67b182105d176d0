// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

// The pauses that tests step over.
const (
	BetweenProofs       = betweenProofs
	FirstProofPause     = firstProofPause
	RefusalsEvery       = refusalsEvery
	RepeatRefusalsAfter = repeatRefusalsAfter
)

// Settle waits until no proof runs, and until the machines of all leaks so far
// were killed.
func (e *Enforcer) Settle() {
	e.WaitProofs()
	e.leaks.killing.Wait()
}

// Expect makes a nonce count as a running proof's.
func (e *Enforcer) Expect(uid, nonce, smolvm, backend string) error {
	return e.watched.expect(uid, nonce, smolvm, backend)
}

// FoundLeak acts on a leak.
func (e *Enforcer) FoundLeak(uid, path string) { e.leaks.found(uid, path) }

// RefusalsRound reports once what is new.
func (e *Enforcer) RefusalsRound(ctx context.Context, report func(host.Owner, string)) {
	e.refusals.round(ctx, report)
}

// State is what is known of a Bottle.
type State struct {
	Watched bool
	Wall    host.Wall
	Breach  *Breach
	Leak    *state.Leak
	Dropped uint64
	// Requested: another proof was asked for.
	Requested bool
}

// State returns what is known of a Bottle.
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

// Neighbours returns walls of other Bottles.
func (e *Enforcer) Neighbours(uid string, most int) []host.WallSpec {
	return e.watched.neighbours(uid, most)
}
