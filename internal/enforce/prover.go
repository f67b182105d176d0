// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/backoff"
	"botbottle.dev/bottle-operator/internal/enforce/probe"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/jobs"
	"botbottle.dev/bottle-operator/internal/state"
)

// Subject is what a proof is about: a VMM, behind a wall, beside a bundle.
type Subject struct {
	Spec  host.WallSpec
	NetNS host.NetNS
	// Run is the VMM; its PID is known.
	Run state.Run
	// Container is the ID of the bundle's container.
	Container string
	Policy    probe.Policy
	Version   host.SmolvmVersion
	// Demand is the value of the prove annotation. A new value requests a new
	// proof.
	Demand string
	// Kept is the last proof in the machine's record, nil if there is none.
	Kept *state.Proof
}

// key identifies the subject. Another VMM, wall, bundle or set of ports needs
// another proof.
func (s Subject) key() string {
	ports := strings.Trim(strings.ReplaceAll(fmt.Sprint(s.Spec.Ports), " ", ", "), "[]")
	return fmt.Sprintf("pid=%d@%d netns=%d:%d bundle=%s@%s ports=%s", s.Run.PID, s.Run.StartTime.Unix(),
		s.NetNS.Dev, s.NetNS.Inode, s.Container, s.Spec.BundleIP, ports)
}

// Standing is what is known about a subject.
type Standing struct {
	// Proof is the valid proof, nil if nothing is proven. A proof stays valid
	// while another one runs, and is revoked if that one does not succeed.
	Proof *state.Proof
	// Failure describes how the last proof failed. It is nil if that proof
	// succeeded or if there was none.
	Failure *Failure
	// After is the time until EnsureProven must be called again; 0 if something
	// else will cause the call.
	After time.Duration
}

// Failure describes a proof that proved nothing.
type Failure struct {
	// Reason is a condition's reason. Message is stable and bounded.
	Reason, Message string
}

const (
	firstProofPause = 5 * time.Second
	lastProofPause  = 5 * time.Minute
	// betweenProofs is the least time between two proofs that no user requested.
	betweenProofs = time.Minute
)

// history records a Bottle's proofs since this agent started.
type history struct {
	key     string       // of the subject
	proof   *state.Proof // the valid proof, if this agent made it
	revoked bool         // a proof failed: an earlier agent's proof is no longer valid
	ended   time.Time    // when the last proof ended
	demand  string       // Subject.Demand of the last proof
	// requested means that another proof was requested since the last one
	// started.
	requested bool
	// failures counts failures in a row; failure is the last of them.
	failures int
	failure  *Failure
	// subject is what the last proof was requested for, and outcome how the last one
	// ended; nil if there was none.
	subject *Subject
	outcome *Outcome
}

// prover decides when to make proofs, runs them, and keeps their results.
type prover struct {
	Options
	watched *registry
	leaks   *leaks
	jobs    *jobs.Set[struct{}]
	// proved is called when a proof ends. The proof itself caused everything
	// that the guest was refused until now.
	proved func(uid string, now time.Time, drops []host.Drop)

	mu        sync.Mutex
	histories map[string]*history      // by UID
	ends      map[string]chan struct{} // by UID, of those for which somebody waits
}

func newProver(o Options, watched *registry, leaks *leaks) *prover {
	return &prover{
		Options: o, watched: watched, leaks: leaks,
		jobs:      jobs.New[struct{}]("proof", o.MaxConcurrentProofs, o.Clock),
		proved:    func(string, time.Time, []host.Drop) {},
		histories: map[string]*history{},
		ends:      map[string]chan struct{}{},
	}
}

// history returns the history of the subject. The caller holds p.mu.
func (p *prover) history(uid, key string) *history {
	h := p.histories[uid]
	if h == nil || h.key != key {
		h = &history{key: key}
		p.histories[uid] = h
	}
	return h
}

func (p *prover) forget(uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.histories, uid)
}

// request requests another proof of a Bottle, which starts no sooner than
// betweenProofs after the last one. However often it is called, it notifies the
// subscriber only once until the next proof starts.
func (p *prover) request(uid string) {
	p.mu.Lock()
	h := p.histories[uid]
	isNew := h != nil && !h.requested // without a history, the first proof is still to come
	if isNew {
		h.requested = true
	}
	p.mu.Unlock()
	if isNew {
		p.watched.notify(uid)
	}
}

// ensure implements Enforcement.EnsureProven.
func (p *prover) ensure(s Subject) Standing {
	p.mu.Lock()
	defer p.mu.Unlock()
	uid, key := s.Spec.Owner.UID, s.key()
	h := p.history(uid, key)
	h.subject = &s
	st := Standing{Proof: h.proof, Failure: h.failure}
	if st.Proof == nil && !h.revoked && s.Kept != nil && s.Kept.Key == key {
		st.Proof = s.Kept
	}
	if p.jobs.Running(uid) {
		return st
	}
	due, after := p.due(h, s.Demand)
	if !due {
		st.After = after
		return st
	}
	p.start(h, s)
	return st
}

// start starts a proof. The caller holds p.mu.
func (p *prover) start(h *history, s Subject) {
	uid := s.Spec.Owner.UID
	h.requested = false
	p.jobs.Start(s.Spec.Owner, func(ctx context.Context) struct{} {
		p.run(ctx, s)
		return struct{}{}
	}, func() {
		p.announceEnd(uid)
		p.watched.notify(uid)
	})
}

// due reports whether a proof is to start now. If not, it returns the time until
// one is due, or 0 if none is. The caller holds p.mu.
func (p *prover) due(h *history, demand string) (now bool, after time.Duration) {
	wait := func(d time.Duration) (bool, time.Duration) {
		left := h.ended.Add(d).Sub(p.Clock.Now())
		return left <= 0, max(0, left)
	}
	switch {
	case h.ended.IsZero(): // this agent has proven nothing yet
		return true, 0
	case h.demand != demand:
		return true, 0
	case h.failure != nil:
		return wait(backoff.After(h.failures, firstProofPause, lastProofPause))
	case h.requested:
		return wait(betweenProofs)
	}
	return false, 0
}

// run makes one proof and records its result.
func (p *prover) run(ctx context.Context, s Subject) {
	uid := s.Spec.Owner.UID
	ctx, cancel := context.WithTimeout(ctx, proofTimeout)
	defer cancel()
	started := p.Clock.Now()
	findings, verdict, err := p.prove(ctx, s)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
		return // a cancelled proof says nothing about the walls
	}
	if err == nil && verdict.Result == probe.Confessed {
		p.leaks.onConfession(uid, verdict.Reached)
	}
	leaked := p.leaks.has(uid)
	p.Metrics.proved(verdict, err, leaked)

	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.histories[uid]
	if h == nil || h.key != s.key() {
		return // the subject is gone
	}
	h.ended, h.demand = p.Clock.Now(), s.Demand
	defer func() {
		out := outcomeOf(h, leaked)
		out.Start, out.End, out.Findings = started, h.ended, findings
		h.outcome = &out
	}()
	if err == nil && verdict.Result == probe.Proven && !leaked {
		proof := provenRecord(s, verdict)
		h.proof, h.revoked, h.failures, h.failure = &proof, false, 0, nil
		return
	}
	h.proof, h.revoked = nil, true
	h.failures++
	h.failure = failureOf(verdict, err)
}

// failureOf describes a proof that proved nothing.
func failureOf(v probe.Verdict, err error) *Failure {
	f := &Failure{Reason: v1alpha1.ReasonProofNotObserved}
	switch {
	case errors.Is(err, errNoProber):
		f.Reason, f.Message = v1alpha1.ReasonProofImpossible, err.Error()+"; trying again"
	case err != nil:
		f.Reason, f.Message = v1alpha1.ReasonError, "the proof could not be made, trying again: "+err.Error()
	case v.Result == probe.NotReached:
		f.Reason = v1alpha1.ReasonBundleNotReached
		f.Message = "the guest did not reach its bundle, trying again; not reached: " + strings.Join(v.Missing, ", ")
	default:
		f.Message = "the node did not see every attempt that it should have seen, trying again; not seen: " + strings.Join(v.Missing, ", ")
	}
	return f
}

// provenRecord returns the record of a successful proof. Its message is the same
// for the same findings.
func provenRecord(s Subject, v probe.Verdict) state.Proof {
	p := state.Proof{Key: s.key(), Demand: s.Demand, Reason: v1alpha1.ReasonBothWalls}
	p.Message = "proven from inside the guest: nothing but the bundle's ports can be reached; the node's wall and smolvm's own hold"
	if !v.Both {
		p.Reason = v1alpha1.ReasonHostWall
		p.Message = "proven from inside the guest: nothing but the bundle's ports can be reached; the node's wall holds, smolvm's own does not count: " + v.PolicyNote
	}
	if len(v.Unobserved) > 0 {
		p.Message += "; covered only by the node's own checks: " + strings.Join(slices.Sorted(slices.Values(v.Unobserved)), ", ")
	}
	return p
}
