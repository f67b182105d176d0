// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"botbottle.dev/bottle-operator/internal/backoff"
	"botbottle.dev/bottle-operator/internal/host"
)

// Reasons of Events, as users know them from Pods.
const (
	ReasonPulling = "Pulling"
	ReasonPulled  = "Pulled"
	ReasonFailed  = "Failed"
	ReasonBackOff = "BackOff"
)

// Backoff between pulls that fail, as a kubelet's.
const (
	firstBackoff = 10 * time.Second
	lastBackoff  = 5 * time.Minute
	// failureKept is how long after its backoff a failure still counts for
	// the length of the next one.
	failureKept = 2 * lastBackoff
)

// job is what goes on behind all who ask for one thing with one set of
// credentials. It is cancelled when the last of them leaves.
type job struct {
	request
	started time.Time
	cancel  context.CancelFunc
	done    chan struct{}
	// waiters are by UID: whether it was told that it is being pulled.
	waiters map[string]bool
	// kept is a job that goes on when nobody waits for it: a prewarming.
	kept bool
	// asking is the run's own.
	resolving *resolving
	stage
	result result
	err    error
}

// stage is how far a job is.
type stage struct {
	from   string // who is asked
	queued bool   // for its turn to ask
	fetch  *fetch // once it is known what is to be fetched from there
}

// result is an image that is in the store.
type result struct {
	digest string
	// grant is the fingerprint that the registry accepted.
	grant string
	// top is the digest that the reference stood for.
	top string
	// fetched says that bytes were brought for it.
	fetched bool
}

// failure is how the last attempt of a job ended.
type failure struct {
	err   error
	count int
	at    time.Time
	until time.Time
	file  fileID // that it was about; zero for what is no file
	// told counts by UID how often the failure was reported.
	reports map[string]int
}

// begin starts a job. The lock is held.
func (s *Store) startJob(req request, now time.Time) *job {
	s.prune(now)
	ctx, cancel := context.WithCancel(s.ctx)
	j := &job{request: req, started: now, cancel: cancel, done: make(chan struct{}), waiters: map[string]bool{}, stage: stage{from: req.firstSource()}}
	s.jobs[req.key] = j
	s.join(j, req.uid)
	s.background.Go(func() { s.runJob(ctx, j) })
	return j
}

// join adds one who waits, or for "" somebody who never leaves. Whoever had
// the image already hears of it only if there is something to be fetched. The
// lock is held; Events must not block.
func (s *Store) join(j *job, uid string) {
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

func (s *Store) reportPulling(j *job, uid string) {
	if j.waiters[uid] {
		return
	}
	j.waiters[uid] = true
	s.o.Event(uid, ReasonPulling, fmt.Sprintf("Pulling %s %q", j.form.noun(), j.given))
}

// failed is what one who asks during the backoff is told. The lock is held.
func (s *Store) backoffError(f *failure, req request) error {
	reports := f.reports[req.uid]
	f.reports[req.uid]++
	if reports == 1 && req.uid != "" {
		s.o.Event(req.uid, ReasonBackOff, fmt.Sprintf("Back-off pulling %s %q", req.form.noun(), req.given))
	}
	return &host.PullFailed{Err: f.err, Until: f.untilFor(req), BackOff: reports > 0}
}

// untilFor is the end of the backoff; for another file than it was about, of
// the first.
func (f *failure) untilFor(req request) time.Time {
	if first := f.at.Add(firstBackoff); f.file != req.file && first.Before(f.until) {
		return first
	}
	return f.until
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
	if s.jobs[j.key] == j { // else nobody waits for it any more
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
			s.o.Log.Error(err, "Index of images not saved")
		}
		s.measure()
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
		s.o.Event(uid, ReasonPulled, fmt.Sprintf("The %s %q (%s) was on the node already", j.form.noun(), j.given, j.result.digest))
	}
}

func (s *Store) recordSuccess(j *job, waiters []string, now time.Time) {
	delete(s.failures, j.key)
	s.index.recordServed(j.result.digest, j.repository(), now)
	switch j.kind {
	case fromRegistry:
		s.index.resolve(j.canonical, j.result.digest, j.result.grant, now)
	case fromFolder:
		s.known[j.canonical] = knownFile{id: j.file, digest: j.result.digest}
	}
	s.index.recordTop(j.result.top, j.result.digest)
	for _, uid := range waiters {
		r := s.requesters[uid]
		r.digest, r.answeredAt, r.handedOver = j.result.digest, now, time.Time{}
	}
}

func (s *Store) recordFailure(j *job, now time.Time) {
	f := s.failures[j.key]
	if f == nil {
		f = &failure{}
		s.failures[j.key] = f
	}
	f.err, f.reports, f.at, f.file = j.err, map[string]int{}, now, j.file
	for uid := range j.waiters {
		s.requesters[uid].digest = "" // it has had none since
	}
	f.count++
	f.until = now.Add(backoff.After(f.count, firstBackoff, lastBackoff))
}

// prune forgets what is over. The lock is held.
func (s *Store) prune(now time.Time) {
	maps.DeleteFunc(s.failures, func(_ string, f *failure) bool { return now.Sub(f.until) > failureKept })
	maps.DeleteFunc(s.requesters, func(_ string, r *requester) bool { return r.job == nil && now.Sub(r.lastRequest) > requesterKept })
}
