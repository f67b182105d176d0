// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"botbottle.dev/bottle-operator/internal/fairqueue"
)

// Reasons of Events, which users know from Pods.
const (
	ReasonPulling = "Pulling"
	ReasonPulled  = "Pulled"
	ReasonFailed  = "Failed"
	ReasonBackOff = "BackOff"
)

// job brings one image for all requests with the same key. It is cancelled when
// the last waiter leaves, unless it is kept.
type job struct {
	request
	started time.Time
	cancel  context.CancelFunc
	done    chan struct{}
	// waiters maps the UID of each waiter to whether the Event that the image
	// is being pulled was sent to it.
	waiters map[string]bool
	// kept means that the job goes on when nobody waits for it, as for a
	// prewarm.
	kept bool
	// resolving belongs to the job's own goroutine.
	resolving *resolving
	stage
	result result
	err    error
}

// stage is the progress of a job.
type stage struct {
	from   string    // the source that is queried
	queued bool      // waits for a resolve slot
	until  time.Time // until when a server asks to wait; zero if none does
	// place is the job's place in the queue for a resolve slot, or its slot.
	place *fairqueue.Ticket
	fetch *fetch // set when it is known what to fetch from there
}

// result describes an image that is in the store.
type result struct {
	digest string
	// grant is the fingerprint of the credentials that the registry accepted.
	grant string
	// top is the digest that the reference resolved to.
	top string
	// fetched means that content was fetched for it.
	fetched bool
}

// startJob starts a job. The caller holds the lock.
func (s *Store) startJob(req request, now time.Time) *job {
	s.prune(now)
	ctx, cancel := context.WithCancel(s.ctx)
	j := &job{request: req, started: now, cancel: cancel, done: make(chan struct{}), waiters: map[string]bool{}, stage: stage{from: req.firstSource()}}
	s.jobs[req.key] = j
	s.join(j, req.uid)
	s.background.Go(func() { s.runJob(ctx, j) })
	return j
}

func (s *Store) runJob(ctx context.Context, j *job) {
	defer j.cancel()
	var err error
	switch j.kind {
	case fromFolder:
		j.result, err = s.takeLocal(ctx, j)
	case fromDaemon:
		j.result, err = s.resolveAndTake(ctx, j, j.from, func(ctx context.Context) (result, error) { return s.takeFromDaemon(ctx, j) })
	default:
		j.result, err = s.takeFromRegistries(ctx, j)
	}
	s.finishJob(ctx, j, err)
}

func (s *Store) finishJob(ctx context.Context, j *job, err error) {
	if err != nil {
		err = fmt.Errorf("%s %s: %w", j.form.noun(), j.given, err)
	}
	now := s.o.Clock.Now()
	s.mu.Lock()
	if s.jobs[j.key] == j { // otherwise nobody waits for it any more
		delete(s.jobs, j.key)
	}
	waiters := slices.Sorted(maps.Keys(j.waiters))
	for _, uid := range waiters {
		s.requesters[uid].job = nil
	}
	cancelled := ctx.Err() != nil && err != nil
	switch {
	case cancelled:
	case err != nil:
		j.err = err
		s.recordFailure(j, now)
	default:
		s.recordSuccess(j, waiters, now)
	}
	s.recordRoom(j, err)
	close(j.done)
	s.mu.Unlock()
	if cancelled {
		return
	}
	s.o.Metrics.pulled(j, err, now.Sub(j.started))
	if err == nil {
		if err := s.saveIndex(); err != nil {
			s.o.Log.Error(err, "Failed to save the index of images")
		}
		s.o.Metrics.measure(s.files, s.partials)
	}
	for _, uid := range waiters {
		s.reportResult(j, err, uid, now)
	}
	s.notify(waiters)
}

func (s *Store) reportResult(j *job, err error, uid string, now time.Time) {
	switch {
	case err != nil:
		s.o.Event(uid, ReasonFailed, fmt.Sprintf("Failed to pull %s %q: %v", j.form.noun(), j.given, err))
	case j.result.fetched:
		s.o.Event(uid, ReasonPulled, fmt.Sprintf("Pulled %s %q (%s) in %s", j.form.noun(), j.given, j.result.digest, now.Sub(j.started).Round(100*time.Millisecond)))
	case j.waiters[uid]:
		s.o.Event(uid, ReasonPulled, fmt.Sprintf("The %s %q (%s) was already on the node", j.form.noun(), j.given, j.result.digest))
	}
}

func (s *Store) recordSuccess(j *job, waiters []string, now time.Time) {
	delete(s.failures, j.key)
	s.recordResult(j, now)
	for _, uid := range waiters {
		r := s.requesters[uid]
		r.digest, r.answeredAt, r.handedOver = j.result.digest, now, time.Time{}
	}
}
