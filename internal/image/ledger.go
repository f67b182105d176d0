// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/backoff"
)

// ledger records who waits for what: the Bottles and their requests, the jobs that
// answer them, the fetches that jobs share, and the failures that delay jobs.
type ledger struct {
	requestWatchers
	o *Options
	// ctx is the context of all background work. Close cancels it.
	ctx    context.Context
	cancel context.CancelFunc

	mu         sync.Mutex
	jobs       map[string]*job
	fetches    map[string]*fetch
	failures   map[string]*failure
	requesters map[string]*requester // by UID
}

func newLedger(o *Options) *ledger {
	l := &ledger{
		o:    o,
		jobs: map[string]*job{}, fetches: map[string]*fetch{}, failures: map[string]*failure{}, requesters: map[string]*requester{},
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// end cancels all background work. No new job can start after it.
func (s *ledger) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cancel()
}

// join adds a waiter, or for "" makes the job go on without one. A waiter that
// already had an answer gets an Event only if something must be fetched. The
// caller holds the lock, so Options.Event must not block.
func (s *ledger) join(j *job, uid string) {
	defer s.waitersChanged(j)
	if uid == "" {
		j.kept = true
		return
	}
	if _, waits := j.waiters[uid]; waits {
		return
	}
	j.waiters[uid] = false
	r := s.requesters[uid]
	r.job = j
	if r.digest == "" || j.fetch != nil {
		s.reportPulling(j, uid)
	}
}

func (s *ledger) reportPulling(j *job, uid string) {
	if j.waiters[uid] {
		return
	}
	j.waiters[uid] = true
	s.o.Event(uid, ReasonPulling, fmt.Sprintf("Pulling %s %q", j.form.noun(), j.given))
}

func (s *ledger) recordFailure(j *job, now time.Time) {
	f := s.failures[j.key]
	if f == nil {
		f = &failure{}
		s.failures[j.key] = f
	}
	f.err, f.reports, f.at, f.file = j.err, map[string]int{}, now, j.file
	for uid := range j.waiters {
		s.requesters[uid].digest = "" // the answer is no longer current
	}
	f.count++
	f.until = now.Add(backoff.After(f.count, firstBackoff, lastBackoff))
	if asked := postponedUntil(j.err); asked.After(f.until) {
		f.until = asked
	}
}

// prune forgets failures and requesters that no longer matter. The caller holds
// the lock.
func (s *ledger) prune(now time.Time) {
	maps.DeleteFunc(s.failures, func(_ string, f *failure) bool { return now.Sub(f.until) > failureKept })
	maps.DeleteFunc(s.requesters, func(_ string, r *requester) bool { return r.job == nil && now.Sub(r.lastRequest) > requesterKept })
}
