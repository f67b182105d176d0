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
	askTimeout = 2 * time.Minute
	// minAsks and asksPerPull are how many jobs ask at one time.
	minAsks     = 16
	asksPerPull = 4
)

// asking is the part of a job that finds out what is to be fetched. It has a
// place and a time of its own, which end where the fetching begins.
type asking struct {
	places chan struct{}
	timer  *time.Timer
	late   atomic.Bool
	over   bool
}

// first is who is asked first, for a text.
func (a ask) first() string {
	switch a.kind {
	case ofFolder:
		return "the node's files"
	case ofDaemon:
		return "the node's Docker Engine"
	}
	return a.endpoints[0].repo.RegistryStr()
}

// who is one who is asked, in a sentence.
func (a ask) who(from string) string {
	if a.kind == ofRegistry {
		return "registry " + from
	}
	return from
}

// ask has the job ask somebody what the reference is, and fetch that from
// there. What was fetched from another before counts no more.
func (s *Store) ask(ctx context.Context, j *job, from string, take func(ctx context.Context) (result, error)) (result, error) {
	select {
	case s.asks <- struct{}{}:
	default:
		s.enter(j, stage{from: from, queued: true})
		select {
		case s.asks <- struct{}{}:
		case <-ctx.Done():
			return result{}, ctx.Err()
		}
	}
	s.enter(j, stage{from: from})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := &asking{places: s.asks}
	limit := min(askTimeout, s.o.PullTimeout)
	// Of the real time, as the timeouts of what it bounds.
	a.timer = time.AfterFunc(limit, func() {
		a.late.Store(true)
		cancel()
	})
	j.asking = a
	defer j.answered()
	res, err := take(ctx)
	if err != nil && a.late.Load() {
		wayOut := "check the connection to it"
		if limit == s.o.PullTimeout {
			wayOut += ", or raise --image-pull-timeout"
		}
		err = fmt.Errorf("%s took too long to say what the %s is, more than %s: %s", j.who(from), j.form.noun(), limit, wayOut)
	}
	return res, err
}

// answered ends the asking, in the job's own run.
func (j *job) answered() {
	a := j.asking
	if a == nil || a.over {
		return
	}
	a.over = true
	a.timer.Stop()
	<-a.places
}

// enter notes how far the job is, and tells all who wait for it if that is
// news.
func (s *Store) enter(j *job, to stage) {
	var uids []string
	s.mu.Lock()
	if j.stage != to {
		uids = slices.Sorted(maps.Keys(j.waiters))
	}
	j.stage = to
	s.mu.Unlock()
	s.tell(uids)
}
