// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
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
	limit *limit
	// allowed is how much longer servers may make it wait. Such waits do not count
	// against the limit.
	allowed time.Duration

	mu    sync.Mutex
	place *fairqueue.Ticket
	ended bool
}

// resolver gives each job a slot and a time while it finds out what to fetch.
type resolver struct {
	*ledger
	resolveSlots *fairqueue.Queue
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
func (s *resolver) resolveAndTake(ctx context.Context, j *job, from string, take func(ctx context.Context) (result, error)) (result, error) {
	r := &resolving{place: s.enterResolving(j), allowed: s.o.PullTimeout}
	defer r.stop()
	if err := s.waitToResolve(ctx, j, r, from); err != nil {
		return result{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	most := min(resolveTimeout, s.o.PullTimeout)
	r.limit = newLimit(most, cancel)
	j.resolving = r
	res, err := take(ctx)
	if err != nil && r.limit.exceeded() {
		remedy := "check the connection to it"
		if most == s.o.PullTimeout {
			remedy += ", or raise --image-pull-timeout"
		}
		err = fmt.Errorf("%s took more than %s to resolve the %s: %s", j.sourceText(from), most, j.form.noun(), remedy)
	}
	return res, err
}

// waitToResolve waits until the job has its slot.
func (s *resolver) waitToResolve(ctx context.Context, j *job, r *resolving, from string) error {
	place := r.currentPlace()
	if !place.HasSlot() {
		s.setStage(j, stage{from: from, queued: true, place: place})
		select {
		case <-place.Ready():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.setStage(j, stage{from: from, place: place})
	return nil
}

func (r *resolving) currentPlace() *fairqueue.Ticket {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.place
}

// stop gives back the slot and ends the limit. It may be called more than once.
func (r *resolving) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	r.place.Release()
	if r.limit != nil {
		r.limit.stop()
	}
}

// endResolving gives back the slot and ends the limit. Only the job's own
// goroutine calls it.
func (j *job) endResolving() {
	if j.resolving != nil {
		j.resolving.stop()
	}
}

// setStage records the stage of the job and notifies all waiters if it changed.
func (s *ledger) setStage(j *job, to stage) {
	var uids []string
	s.mu.Lock()
	if j.stage != to {
		uids = slices.Sorted(maps.Keys(j.waiters))
	}
	j.stage = to
	s.mu.Unlock()
	s.notify(uids)
}
