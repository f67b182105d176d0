// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"
)

const (
	// askTimeout bounds the asking for what a reference is, which is a few
	// small answers.
	resolveTimeout = 2 * time.Minute
	// minAsks and asksPerPull are how many jobs ask at one time.
	minResolves     = 16
	resolvesPerPull = 4
)

// asking is the part of a job that finds out what is to be fetched. It has a
// place and a time of its own, which end where the fetching begins.
type resolving struct {
	slots    chan struct{}
	timer    *time.Timer
	timedOut atomic.Bool
	ended    bool
}

// first is who is asked first, for a text.
func (r request) firstSource() string {
	switch r.kind {
	case fromFolder:
		return "the node's files"
	case fromDaemon:
		return "the node's Docker Engine"
	}
	return r.endpoints[0].repo.RegistryStr()
}

// who is one who is asked, in a sentence.
func (r request) sourceText(from string) string {
	if r.kind == fromRegistry {
		return "registry " + from
	}
	return from
}

// ask has the job ask somebody what the reference is, and fetch that from
// there. What was fetched from another before counts no more.
func (s *Store) resolveAndTake(ctx context.Context, j *job, from string, take func(ctx context.Context) (result, error)) (result, error) {
	select {
	case s.resolveSlots <- struct{}{}:
	default:
		s.setStage(j, stage{from: from, queued: true})
		select {
		case s.resolveSlots <- struct{}{}:
		case <-ctx.Done():
			return result{}, ctx.Err()
		}
	}
	s.setStage(j, stage{from: from})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &resolving{slots: s.resolveSlots}
	limit := min(resolveTimeout, s.o.PullTimeout)
	// Of the real time, as the timeouts of what it bounds.
	r.timer = time.AfterFunc(limit, func() {
		r.timedOut.Store(true)
		cancel()
	})
	j.resolving = r
	defer j.endResolving()
	res, err := take(ctx)
	if err != nil && r.timedOut.Load() {
		remedy := "check the connection to it"
		if limit == s.o.PullTimeout {
			remedy += ", or raise --image-pull-timeout"
		}
		err = fmt.Errorf("%s took too long to say what the %s is, more than %s: %s", j.sourceText(from), j.form.noun(), limit, remedy)
	}
	return res, err
}

// answered ends the asking, in the job's own run.
func (j *job) endResolving() {
	a := j.resolving
	if a == nil || a.ended {
		return
	}
	a.ended = true
	a.timer.Stop()
	<-a.slots
}

// enter notes how far the job is, and tells all who wait for it if that is
// news.
func (s *Store) setStage(j *job, to stage) {
	var uids []string
	s.mu.Lock()
	if j.stage != to {
		uids = slices.Sorted(maps.Keys(j.waiters))
	}
	j.stage = to
	s.mu.Unlock()
	s.notify(uids)
}
