// SPDX-License-Identifier: Apache-2.0

package image

import "time"

const (
	// answerCounts is for how long an answer is handed over again to one who
	// has not made a machine of it yet (Forget): long enough for a Bottle that
	// waits for something else not to ask the registry in every pass.
	answerCounts = 2 * time.Minute
	// answerKept is how long an answer waits to be handed over.
	answerKept = 10 * time.Minute
	// askerKept is how long one is remembered who neither asks nor says that
	// it wants nothing any more; longer than any Bottle waits between passes.
	askerKept = time.Hour
)

// asker is a Bottle and what it wants, which is one thing at a time.
type asker struct {
	key  string
	seen time.Time // when it asked last
	job  *job      // that it waits for; nil for none
	// digest is the answer of the last job, "" for none or a failure. When it
	// no longer counts it still says that there was one.
	digest string
	at     time.Time
	handed time.Time // zero until it is
}

// counts says whether the answer is to be handed over now.
func (a *asker) counts(now time.Time) bool {
	if a.digest == "" {
		return false
	}
	if a.handed.IsZero() && now.Sub(a.at) <= answerKept {
		a.handed = now
	}
	return !a.handed.IsZero() && now.Sub(a.handed) < answerCounts
}

// asked notes what the Bottle wants; it then no longer wants what it wanted
// before. The lock is held.
func (s *Store) asked(a ask, now time.Time) {
	if a.uid == "" {
		return
	}
	me := s.askers[a.uid]
	if me == nil || me.key != a.key {
		s.leave(a.uid)
		me = &asker{key: a.key}
		s.askers[a.uid] = me
	}
	me.seen = now
}

// Forget implements host.Images.
func (s *Store) Forget(uid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leave(uid)
}

// leave ends what goes on for the Bottle alone. The lock is held.
func (s *Store) leave(uid string) {
	me := s.askers[uid]
	if me == nil {
		return
	}
	delete(s.askers, uid)
	j := me.job
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
