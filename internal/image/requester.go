// SPDX-License-Identifier: Apache-2.0

package image

import "time"

const (
	// answerReusable is how long an answer that was handed over is reused for a
	// requester that has not made its machine yet (see Forget). It is long
	// enough that a Bottle that waits for something else does not query the
	// registry in every pass.
	answerReusable = 2 * time.Minute
	// answerKept is how long an answer waits to be handed over.
	answerKept = 10 * time.Minute
	// requesterKept is how long a requester is remembered if it neither requests
	// again nor calls Forget. That is longer than any Bottle waits between
	// passes.
	requesterKept = time.Hour
)

// requester is a Bottle and its current request. It has only one at a time.
type requester struct {
	key         string
	namespace   string
	lastRequest time.Time // time of its last request
	job         *job      // the job that it waits for; nil for none
	// digest is the answer of the last job, "" if there is none or it failed.
	// It is kept after it may no longer be reused, to show that there was an
	// answer.
	digest     string
	answeredAt time.Time
	handedOver time.Time // zero until the answer is handed over
}

// mayReuse reports whether the answer may be handed over now, and records the
// first time that it is.
func (a *requester) mayReuse(now time.Time) bool {
	if a.digest == "" {
		return false
	}
	if a.handedOver.IsZero() && now.Sub(a.answeredAt) <= answerKept {
		a.handedOver = now
	}
	return !a.handedOver.IsZero() && now.Sub(a.handedOver) < answerReusable
}

// recordRequest records the Bottle's request and withdraws its earlier one if
// that was different. The caller holds the lock.
func (s *ledger) recordRequest(req request, now time.Time) {
	if req.uid == "" {
		return
	}
	r := s.requesters[req.uid]
	if r == nil || r.key != req.key {
		s.withdraw(req.uid)
		r = &requester{key: req.key, namespace: req.namespace}
		s.requesters[req.uid] = r
	}
	r.lastRequest = now
}

// Forget implements host.Images.
func (s *ledger) Forget(uid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.withdraw(uid)
}

// withdraw removes the requester and ends the work that goes on only for it.
// The caller holds the lock.
func (s *ledger) withdraw(uid string) {
	r := s.requesters[uid]
	if r == nil {
		return
	}
	delete(s.requesters, uid)
	j := r.job
	if j == nil {
		return
	}
	delete(j.waiters, uid)
	s.waitersChanged(j)
	if len(j.waiters) > 0 || j.kept {
		return
	}
	j.cancel()
	delete(s.jobs, j.key) // the next request starts a new job
	s.abandon(j.fetch)
}
