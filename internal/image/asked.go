// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/utils/clock"
)

// longWait is the shortest wait during which a pull gives its slot to others.
const longWait = 30 * time.Second

// askedToWaitText is the progress of a pull that waits because a server asks for it.
func askedToWaitText(what string, until time.Time) string {
	return fmt.Sprintf("pulling %s: the registry asks to wait until %s", what, until.UTC().Format("15:04:05 UTC"))
}

// untilText is a time for a message about a failure.
func untilText(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// postponed is a failure of a pull that must not be tried again before a time for which
// all sources of the image asked.
type postponed struct {
	error
	until time.Time
}

func (p *postponed) Unwrap() error { return p.error }

// postponedUntil returns the time that err asks to wait for, zero for none.
func postponedUntil(err error) time.Time {
	var p *postponed
	if errors.As(err, &p) {
		return p.until
	}
	return time.Time{}
}

// withoutTime returns a failure without the time that it asks to wait for.
func withoutTime(err error) error {
	if p := (*postponed)(nil); errors.As(err, &p) {
		return p.error
	}
	return err
}

// waitAsAsked waits until the time that a server named, with the job's current slot
// and within its current limit. It returns false at once if that is too long.
func (s *puller) waitAsAsked(ctx context.Context, j *job, r *resolving, until time.Time) (bool, error) {
	s.mu.Lock()
	f := j.fetch
	s.mu.Unlock()
	if f != nil {
		return s.waitFetching(ctx, f, until)
	}
	return s.waitResolving(ctx, j, r, until)
}

func (s *fetcher) waitFetching(ctx context.Context, f *fetch, until time.Time) (bool, error) {
	start := s.o.Clock.Now()
	wait := until.Sub(start)
	if wait > f.limit.remaining() {
		return false, nil
	}
	f.limit.pause()
	f.setWaiting(until)
	if wait >= longWait {
		s.mu.Lock()
		f.place.Release()
		s.mu.Unlock()
	}
	err := sleep(ctx, s.o.Clock, wait)
	spent := s.o.Clock.Since(start)
	f.setWaiting(time.Time{})
	if wait >= longWait && err == nil {
		s.mu.Lock()
		f.place = s.slots.Enter(s.namespacesOf(f)...)
		s.mu.Unlock()
		err = s.waitForSlot(ctx, f)
	}
	f.limit.resume(spent)
	return true, err
}

func (s *resolver) waitResolving(ctx context.Context, j *job, r *resolving, until time.Time) (bool, error) {
	start := s.o.Clock.Now()
	wait := until.Sub(start)
	r.mu.Lock()
	if r.ended || wait > r.allowed {
		r.mu.Unlock()
		return false, nil
	}
	r.allowed -= wait
	r.limit.pause()
	if wait >= longWait {
		r.place.Release()
	}
	r.mu.Unlock()
	from := s.setWaiting(j, until)
	err := sleep(ctx, s.o.Clock, wait)
	if wait >= longWait && err == nil && s.enterAgain(j, r) {
		err = s.waitToResolve(ctx, j, r, from)
	} else {
		s.setWaiting(j, time.Time{})
	}
	r.limit.resume(0)
	return true, err
}

// enterAgain takes a new place in the queue for a slot. It returns false if the
// reference is resolved already.
func (s *resolver) enterAgain(j *job, r *resolving) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return false
	}
	r.place = s.enterResolving(j)
	return true
}

// setWaiting records until when the job waits for a server, zero for not at all, and
// returns the source that it resolves at. It notifies the waiters of a wait that is not
// short.
func (s *resolver) setWaiting(j *job, until time.Time) (from string) {
	s.mu.Lock()
	from = j.from
	to := j.stage
	s.mu.Unlock()
	to.until = until
	if until.IsZero() || until.Sub(s.o.Clock.Now()) < notifyEvery {
		s.mu.Lock()
		j.until = until
		s.mu.Unlock()
		return from
	}
	s.setStage(j, to)
	return from
}

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, c clock.Clock, d time.Duration) error {
	timer := c.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
