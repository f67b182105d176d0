// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"botbottle.dev/bottle-operator/internal/fairqueue"
)

const (
	// resolveTimeout bounds the time to resolve a reference, which takes a few
	// small responses.
	resolveTimeout = 2 * time.Minute
	// minResolves and resolvesPerPull bound how many jobs resolve at the same
	// time.
	minResolves     = 16
	resolvesPerPull = 4
)

// resolving is the part of a job that finds out what to fetch. It has its own
// slot and timeout, which end when the fetch starts.
type resolving struct {
	place    *fairqueue.Ticket
	timer    *time.Timer
	timedOut atomic.Bool
	ended    bool
}

// firstSource names the source that is queried first, for messages.
func (r request) firstSource() string {
	switch r.kind {
	case fromFolder:
		return "the node's files"
	case fromDaemon:
		return "the node's Docker Engine"
	}
	return r.endpoints[0].repo.RegistryStr()
}

// sourceText names a source in a sentence.
func (r request) sourceText(from string) string {
	if r.kind == fromRegistry {
		return "registry " + from
	}
	return from
}

// resolveAndTake takes a resolve slot and then calls take, which resolves the
// reference at the source and fetches the result from there. It replaces the
// stage of an earlier source, with its progress.
func (s *Store) resolveAndTake(ctx context.Context, j *job, from string, take func(ctx context.Context) (result, error)) (result, error) {
	place := s.enterResolving(j)
	defer place.Release()
	if !place.HasSlot() {
		s.setStage(j, stage{from: from, queued: true, place: place})
		select {
		case <-place.Ready():
		case <-ctx.Done():
			return result{}, ctx.Err()
		}
	}
	s.setStage(j, stage{from: from, place: place})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &resolving{place: place}
	limit := min(resolveTimeout, s.o.PullTimeout)
	// This uses real time, as the timeouts below it do.
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
		err = fmt.Errorf("%s took more than %s to resolve the %s: %s", j.sourceText(from), limit, j.form.noun(), remedy)
	}
	return res, err
}

// endResolving gives back the slot and stops the timer. Only the job's own
// goroutine calls it.
func (j *job) endResolving() {
	a := j.resolving
	if a == nil || a.ended {
		return
	}
	a.ended = true
	a.timer.Stop()
	a.place.Release()
}

// setStage records the stage of the job and notifies all waiters if it changed.
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
