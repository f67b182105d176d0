// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// fetch is the bringing of one image, which several jobs may wait for.
type fetch struct {
	progress
	done chan struct{}
	err  error
}

// share runs bring once for all jobs with this key. Whoever only waited and
// sees it fail tries by itself, with its own credentials.
func (s *Store) share(ctx context.Context, j *job, key string, bring func(f *fetch) error) error {
	for {
		s.mu.Lock()
		f := s.fetches[key]
		if f == nil {
			f = &fetch{done: make(chan struct{})}
			f.tell = func() { s.tellFetch(f) }
			f.clock = s.o.Clock
			s.fetches[key], j.fetch = f, f
			s.mu.Unlock()
			return s.bring(ctx, key, f, bring)
		}
		j.fetch = f
		s.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if f.err == nil || isDisk(f.err) {
			return f.err
		}
	}
}

func (s *Store) bring(ctx context.Context, key string, f *fetch, bring func(f *fetch) error) error {
	select {
	case s.slots <- struct{}{}:
	default:
		f.queue(true)
		select {
		case s.slots <- struct{}{}:
			f.queue(false)
		case <-ctx.Done():
			f.err = ctx.Err()
		}
	}
	if f.err == nil {
		f.err = s.diskError(bring(f))
		<-s.slots
	}
	s.mu.Lock()
	delete(s.fetches, key)
	s.mu.Unlock()
	close(f.done)
	return f.err
}

// tellFetch tells all who wait for the fetch.
func (s *Store) tellFetch(f *fetch) {
	var uids []string
	s.mu.Lock()
	for _, j := range s.jobs {
		if j.fetch == f {
			uids = slices.AppendSeq(uids, maps.Keys(j.waiters))
		}
	}
	s.mu.Unlock()
	s.tell(uids)
}

// pulling says how far the job is.
func (s *Store) pulling(j *job) error {
	s.mu.Lock()
	f := j.fetch
	s.mu.Unlock()
	if f == nil {
		from := "the node's files"
		switch j.kind {
		case ofRegistry:
			from = j.ref.Context().RegistryStr()
		case ofDaemon:
			from = "the node's Docker Engine"
		}
		return &host.Pulling{Message: fmt.Sprintf("pulling %s: asking %s", j.what(), from)}
	}
	return f.pulling(j.what(), s.o.MaxPulls)
}

// progress is how far a fetch is.
type progress struct {
	clock interface{ Now() time.Time }
	tell  func()

	mu          sync.Mutex
	queued      bool
	done, total int64
	told        time.Time
}

// tellEvery keeps a fast pull from waking everybody at every tenth.
const tellEvery = 5 * time.Second

func (p *progress) begin(total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total, p.told = total, p.clock.Now()
}

func (p *progress) add(n int64) {
	p.mu.Lock()
	before := p.tenths()
	p.done = min(p.done+n, p.total)
	now := p.clock.Now()
	tell := p.tenths() != before && now.Sub(p.told) >= tellEvery
	if tell {
		p.told = now
	}
	p.mu.Unlock()
	if tell {
		p.tell()
	}
}

func (p *progress) queue(waits bool) {
	p.mu.Lock()
	p.queued = waits
	p.mu.Unlock()
	p.tell()
}

func (p *progress) tenths() int64 {
	if p.total <= 0 {
		return 0
	}
	return int64(float64(p.done) / float64(p.total) * 10)
}

func (p *progress) pulling(what string, most int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := &host.Pulling{Done: p.total / 10 * p.tenths(), Total: p.total}
	switch {
	case p.queued:
		out.Message = fmt.Sprintf("pulling %s: waiting for others, of which the node pulls %d at a time", what, most)
	case p.total <= 0:
		out.Message = fmt.Sprintf("pulling %s", what)
	default:
		out.Message = fmt.Sprintf("pulling %s: %d%% of %s", what, 10*p.tenths(), bytesText(p.total))
	}
	return out
}
