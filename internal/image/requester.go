// SPDX-License-Identifier: Apache-2.0

package image

import "time"

const (
	// answerCounts is for how long an answer is handed over again to one who
	// has not made a machine of it yet (Forget): long enough for a Bottle that
	// waits for something else not to ask the registry in every pass.
	answerReusable = 2 * time.Minute
	// answerKept is how long an answer waits to be handed over.
	answerKept = 10 * time.Minute
	// askerKept is how long one is remembered who neither asks nor says that
	// it wants nothing any more; longer than any Bottle waits between passes.
	requesterKept = time.Hour
)

// asker is a Bottle and what it wants, which is one thing at a time.
type requester struct {
	key         string
	lastRequest time.Time // when it asked last
	job         *job      // that it waits for; nil for none
	// digest is the answer of the last job, "" for none or a failure. When it
	// no longer counts it still says that there was one.
	digest     string
	answeredAt time.Time
	handedOver time.Time // zero until it is
}

// counts says whether the answer is to be handed over now.
func (a *requester) mayReuse(now time.Time) bool {
	if a.digest == "" {
		return false
	}
	if a.handedOver.IsZero() && now.Sub(a.answeredAt) <= answerKept {
		a.handedOver = now
	}
	return !a.handedOver.IsZero() && now.Sub(a.handedOver) < answerReusable
}

// asked notes what the Bottle wants; it then no longer wants what it wanted
// before. The lock is held.
func (s *Store) recordRequest(req request, now time.Time) {
	if req.uid == "" {
		return
	}
	r := s.requesters[req.uid]
	if r == nil || r.key != req.key {
		s.withdraw(req.uid)
		r = &requester{key: req.key}
		s.requesters[req.uid] = r
	}
	r.lastRequest = now
}

// Forget implements host.Images.
func (s *Store) Forget(uid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.withdraw(uid)
}

// leave ends what goes on for the Bottle alone. The lock is held.
func (s *Store) withdraw(uid string) {
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
	if len(j.waiters) > 0 || j.kept {
		return
	}
	j.cancel()
	delete(s.jobs, j.key) // whoever comes now begins another
	s.abandon(j.fetch)
}
