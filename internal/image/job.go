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
	ask
	begun  time.Time
	cancel context.CancelFunc
	done   chan struct{}
	// waiters are by UID: whether it was told that it is being pulled.
	waiters map[string]bool
	// kept is a job that goes on when nobody waits for it: a prewarming.
	kept bool
	// asking is the run's own.
	asking *asking
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
	told map[string]int
}

// begin starts a job. The lock is held.
func (s *Store) begin(a ask, now time.Time) *job {
	s.prune(now)
	ctx, cancel := context.WithCancel(s.ctx)
	j := &job{ask: a, begun: now, cancel: cancel, done: make(chan struct{}), waiters: map[string]bool{}, stage: stage{from: a.first()}}
	s.jobs[a.key] = j
	s.join(j, a.uid)
	s.behind.Go(func() { s.run(ctx, j) })
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
	me := s.askers[uid]
	me.job = j
	if me.digest == "" || j.fetch != nil {
		s.sayPulling(j, uid)
	}
}

func (s *Store) sayPulling(j *job, uid string) {
	if j.waiters[uid] {
		return
	}
	j.waiters[uid] = true
	s.o.Event(uid, ReasonPulling, fmt.Sprintf("Pulling %s %q", j.form.noun(), j.given))
}

// failed is what one who asks during the backoff is told. The lock is held.
func (s *Store) failed(f *failure, a ask) error {
	told := f.told[a.uid]
	f.told[a.uid]++
	if told == 1 && a.uid != "" {
		s.o.Event(a.uid, ReasonBackOff, fmt.Sprintf("Back-off pulling %s %q", a.form.noun(), a.given))
	}
	return &host.PullFailed{Err: f.err, Until: f.untilFor(a), BackOff: told > 0}
}

// untilFor is the end of the backoff; for another file than it was about, of
// the first.
func (f *failure) untilFor(a ask) time.Time {
	if first := f.at.Add(firstBackoff); f.file != a.file && first.Before(f.until) {
		return first
	}
	return f.until
}

func (s *Store) run(ctx context.Context, j *job) {
	defer j.cancel()
	var err error
	switch j.kind {
	case ofFolder:
		j.result, err = s.takeLocal(ctx, j)
	case ofDaemon:
		j.result, err = s.ask(ctx, j, j.from, func(ctx context.Context) (result, error) { return s.takeFromDaemon(ctx, j) })
	default:
		j.result, err = s.takeFromRegistries(ctx, j)
	}
	s.finish(ctx, j, err)
}

func (s *Store) finish(ctx context.Context, j *job, err error) {
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
		s.askers[uid].job = nil
	}
	ended := ctx.Err() != nil && err != nil
	switch {
	case ended:
	case err != nil:
		j.err = err
		s.fail(j, now)
	default:
		s.succeed(j, waiters, now)
	}
	s.noteRoom(j, err)
	close(j.done)
	s.mu.Unlock()
	if ended {
		return
	}
	s.o.Metrics.pulled(j, err, now.Sub(j.begun))
	if err == nil {
		if err := s.saveIndex(); err != nil {
			s.o.Log.Error(err, "Index of images not saved")
		}
		s.measure()
	}
	for _, uid := range waiters {
		s.announce(j, err, uid, now)
	}
	s.tell(waiters)
}

func (s *Store) announce(j *job, err error, uid string, now time.Time) {
	switch {
	case err != nil:
		s.o.Event(uid, ReasonFailed, fmt.Sprintf("Failed to pull %s %q: %v", j.form.noun(), j.given, err))
	case j.result.fetched:
		s.o.Event(uid, ReasonPulled, fmt.Sprintf("Pulled %s %q (%s) in %s", j.form.noun(), j.given, j.result.digest, now.Sub(j.begun).Round(100*time.Millisecond)))
	case j.waiters[uid]:
		s.o.Event(uid, ReasonPulled, fmt.Sprintf("The %s %q (%s) was on the node already", j.form.noun(), j.given, j.result.digest))
	}
}

func (s *Store) succeed(j *job, waiters []string, now time.Time) {
	delete(s.failures, j.key)
	s.index.served(j.result.digest, j.repository(), now)
	switch j.kind {
	case ofRegistry:
		s.index.resolve(j.canonical, j.result.digest, j.result.grant, now)
	case ofFolder:
		s.known[j.canonical] = knownFile{id: j.file, digest: j.result.digest}
	}
	s.index.stands(j.result.top, j.result.digest)
	for _, uid := range waiters {
		me := s.askers[uid]
		me.digest, me.at, me.handed = j.result.digest, now, time.Time{}
	}
}

func (s *Store) fail(j *job, now time.Time) {
	f := s.failures[j.key]
	if f == nil {
		f = &failure{}
		s.failures[j.key] = f
	}
	f.err, f.told, f.at, f.file = j.err, map[string]int{}, now, j.file
	for uid := range j.waiters {
		s.askers[uid].digest = "" // it has had none since
	}
	f.count++
	f.until = now.Add(backoff.After(f.count, firstBackoff, lastBackoff))
}

// prune forgets what is over. The lock is held.
func (s *Store) prune(now time.Time) {
	maps.DeleteFunc(s.failures, func(_ string, f *failure) bool { return now.Sub(f.until) > failureKept })
	maps.DeleteFunc(s.askers, func(_ string, me *asker) bool { return me.job == nil && now.Sub(me.seen) > askerKept })
}
