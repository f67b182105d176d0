// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/jobs"
	"botbottle.dev/bottle-operator/internal/probe"
	"botbottle.dev/bottle-operator/internal/state"
)

// proofs are the proofs of the node's Bottles: those under way, and what an
// agent keeps of the others for as long as it lives.
type proofs struct {
	*jobs.Set[proofResult]

	mu   sync.Mutex
	kept map[string]*proofHistory // by UID
}

// proofHistory is what became of a Bottle's proofs in this life of the agent.
type proofHistory struct {
	key    string // what it is about
	proven bool   // by this agent
	again  bool   // something gave reason to prove once more
	ended  time.Time
	asked  string // the annotation that the last one answered
	// failures in a row, and what the last one came to.
	failures int
	failed   *flow.Waiting
}

// proofResult is what a proof came to.
type proofResult struct {
	key, asked string
	verdict    probe.Verdict
	err        error // the proof could not be made
}

// Pauses between proofs.
const (
	firstProofPause = 5 * time.Second
	lastProofPause  = 5 * time.Minute
	// betweenProofs is the least time between two that nobody asked for.
	betweenProofs = time.Minute
)

func newProofs(parallel int) *proofs {
	return &proofs{Set: jobs.New[proofResult]("proof", parallel), kept: map[string]*proofHistory{}}
}

// history of what key is about; p.mu is held.
func (p *proofs) history(uid, key string) *proofHistory {
	h := p.kept[uid]
	if h == nil || h.key != key {
		h = &proofHistory{key: key}
		p.kept[uid] = h
	}
	return h
}

func (p *proofs) forget(uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.kept, uid)
}

// proveAgain has a Bottle proven once more soon: a canary was touched.
func (r *Reconciler) proveAgain(uid string) {
	r.proofs.mu.Lock()
	h := r.proofs.kept[uid]
	if h != nil {
		h.again = true
	}
	r.proofs.mu.Unlock()
	if h == nil {
		return // its first proof is still to come
	}
	r.enqueueUID(uid)
}

// ensureProof is satisfied once it was proven from inside the guest, by what
// the node saw, that nothing but the bundle can be reached. A proof is made for
// each life of the machine, wall and bundle, by each agent, and when asked for;
// what was proven stands while it is proven anew.
func (r *Reconciler) ensureProof(_ context.Context, s *scope) error {
	if r.findLeak(s); s.leak != nil {
		return &flow.Terminal{Reason: v1alpha1.ReasonLeakDetected, Err: errors.New(leakMessage(s))}
	}
	if s.record == nil || s.record.Run == nil || s.record.Run.PID == 0 {
		return &flow.Waiting{Reason: v1alpha1.ReasonProving, After: soon, Message: "it is not known yet which process the machine is"}
	}
	if err := r.takeProof(s); err != nil {
		return err
	}
	next := r.nextProof(s)
	if next.begin {
		r.beginProof(s)
	}
	if kept := s.record.Proof; kept != nil && kept.Key == s.proofKey() {
		return nil
	}
	if next.failed != nil {
		return next.failed
	}
	return &flow.Waiting{Reason: v1alpha1.ReasonProving, Message: "the walls are being tried from inside the guest"}
}

// proofKey names what a proof is about: another VMM, wall, bundle or set of
// ports is another thing to prove.
func (s *scope) proofKey() string {
	container := ""
	if s.status.Bundle != nil && s.status.Bundle.ContainerID != nil {
		container = *s.status.Bundle.ContainerID
	}
	run := s.record.Run
	return fmt.Sprintf("pid=%d@%d netns=%d:%d bundle=%s@%s ports=%s", run.PID, run.StartTime.Unix(),
		s.wall.NetNS.Dev, s.wall.NetNS.Inode, container, s.triple.BundleIP, join(bundlePorts(s.bottle)))
}

// takeProof takes note of what the last proof came to.
func (r *Reconciler) takeProof(s *scope) error {
	res, ok := r.proofs.Take(s.owner.UID)
	if !ok {
		return nil
	}
	r.Metrics.proved(res)
	if res.key != s.proofKey() {
		return nil // of what is gone
	}
	r.proofs.mu.Lock()
	h := r.proofs.history(s.owner.UID, res.key)
	h.ended, h.asked, h.again = r.Clock.Now(), res.asked, false
	if res.err == nil && res.verdict.Result == probe.Proven {
		h.proven, h.failures, h.failed = true, 0, nil
	} else {
		h.failures++
		h.failed = unproven(res)
	}
	r.proofs.mu.Unlock()

	switch {
	case res.err == nil && res.verdict.Result == probe.Proven:
		proof := provenRecord(res)
		if s.record.Proof != nil && *s.record.Proof == proof {
			return nil
		}
		rec := *s.record
		rec.Proof = &proof
		return s.setRecord(rec)
	}
	if s.record.Proof == nil {
		return nil
	}
	rec := *s.record
	rec.Proof = nil // what was proven is in doubt
	return s.setRecord(rec)
}

type nextProof struct {
	begin  bool
	failed *flow.Waiting
}

// nextProof says whether one is to begin, and how the step stands until then.
func (r *Reconciler) nextProof(s *scope) nextProof {
	uid, key, now := s.owner.UID, s.proofKey(), r.Clock.Now()
	r.proofs.mu.Lock()
	defer r.proofs.mu.Unlock()
	h := r.proofs.history(uid, key)
	if r.proofs.Running(uid) {
		return nextProof{failed: h.failed}
	}
	demanded := s.bottle.Annotations[v1alpha1.AnnotationProve]
	if !h.ended.IsZero() && h.asked != demanded {
		return nextProof{begin: true, failed: h.failed}
	}
	if h.failed != nil {
		left := h.ended.Add(proofPause(h.failures)).Sub(now)
		if left <= 0 {
			return nextProof{begin: true, failed: h.failed}
		}
		failed := *h.failed
		failed.After = left
		return nextProof{failed: &failed}
	}
	if kept := s.record.Proof; !h.proven || kept == nil || kept.Key != key {
		return nextProof{begin: true}
	}
	return nextProof{begin: h.again && now.Sub(h.ended) >= betweenProofs}
}

func proofPause(failures int) time.Duration {
	pause := firstProofPause
	for range failures - 1 {
		if pause *= 2; pause >= lastProofPause {
			return lastProofPause
		}
	}
	return pause
}

// unproven says how the condition stands after a proof that proved nothing.
func unproven(res proofResult) *flow.Waiting {
	w := &flow.Waiting{}
	switch {
	case res.err != nil && !errors.Is(res.err, errNoProber):
		w.Reason, w.Message = v1alpha1.ReasonError, "the proof could not be made, it is tried again: "+res.err.Error()
	case res.err != nil:
		w.Reason, w.Message = v1alpha1.ReasonProofImpossible, res.err.Error()+"; it is tried again"
	case res.verdict.Result == probe.NotReached:
		w.Reason = v1alpha1.ReasonBundleNotReached
		w.Message = "the guest did not reach its bundle, it is tried again: " + strings.Join(res.verdict.Missing, ", ")
	default:
		w.Reason = v1alpha1.ReasonProofNotObserved
		w.Message = "the node did not see everything tried that it can see, it is tried again; not seen: " + strings.Join(res.verdict.Missing, ", ")
	}
	w.Message = bounded(w.Message)
	return w
}

// provenRecord is what is kept of a proof; its message is the same for the
// same findings.
func provenRecord(res proofResult) state.Proof {
	v := res.verdict
	p := state.Proof{Key: res.key, Asked: res.asked, Reason: v1alpha1.ReasonBothWalls}
	p.Message = "proven from inside the guest: nothing but the bundle's ports can be reached; the node's wall and smolvm's own hold"
	if !v.Both {
		p.Reason = v1alpha1.ReasonHostWall
		p.Message = "proven from inside the guest: nothing but the bundle's ports can be reached; the node's wall holds, smolvm's own does not count: " + v.PolicyNote
	}
	if len(v.Rests) > 0 {
		p.Message += "; on the node's own checks rest: " + strings.Join(slices.Sorted(slices.Values(v.Rests)), ", ")
	}
	p.Message = bounded(p.Message)
	return p
}
