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
	"botbottle.dev/bottle-operator/internal/host"
)

// fetch brings one image into the store. Several jobs may wait for it. It runs
// as long as any of them waits, even if the job that started it does not.
type fetch struct {
	progress
	key    string
	place  *fairqueue.Ticket // in the queue for a slot, or the slot; guarded by Store.mu
	limit  *limit            // set when it has its first slot
	cancel context.CancelFunc
	done   chan struct{}
	digest string
	err    error
}

// fetcher runs each fetch once for all jobs that need it, in a slot and within a
// time.
type fetcher struct {
	*ledger
	disk  *files // where the fetches write
	slots *fairqueue.Queue
}

// share runs pull once for all jobs with this key, with the fetch's own
// context, and returns the digest that pull returned. If the fetch fails, a job
// that only waited for it tries again itself, with its own credentials. The job
// that runs pull stays until pull returns, even when others are the only ones
// left to wait.
func (s *fetcher) share(ctx context.Context, j *job, key string, pull func(ctx context.Context, f *fetch) (string, error)) (string, error) {
	j.endResolving()
	for {
		s.mu.Lock()
		// A job is cancelled under this lock when its last waiter leaves, so a
		// fetch that nobody waits for never starts.
		if err := ctx.Err(); err != nil {
			s.mu.Unlock()
			return "", err
		}
		f := s.fetches[key]
		mine := f == nil
		var fetchCtx context.Context
		if mine {
			f = &fetch{key: key, done: make(chan struct{})}
			fetchCtx, f.cancel = context.WithCancel(s.ctx)
			f.notify = func() { s.notifyFetch(f) }
			f.clock = s.o.Clock
			s.fetches[key] = f
		}
		j.fetch = f
		if mine {
			f.place = s.slots.Enter(s.namespacesOf(f)...)
		} else {
			f.place.WaitFor(s.namespacesOf(f)...)
		}
		for uid := range j.waiters {
			s.reportPulling(j, uid)
		}
		s.mu.Unlock()
		if mine {
			s.pull(fetchCtx, f, pull)
			return f.digest, f.err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return "", ctx.Err()
		}
		if f.err == nil || isDisk(f.err) {
			return f.digest, f.err
		}
	}
}

// pull waits for a slot and runs the function. The timeout starts when it has the
// slot, so that the wait for other pulls does not count.
func (s *fetcher) pull(ctx context.Context, f *fetch, pull func(ctx context.Context, f *fetch) (string, error)) {
	defer f.cancel()
	digest, err := "", s.waitForSlot(ctx, f)
	if err == nil {
		limited, cancel := context.WithCancel(ctx)
		f.limit = newLimit(s.o.PullTimeout, cancel)
		digest, err = pull(limited, f)
		f.limit.stop()
		err = s.disk.diskError(err)
		if err != nil && !isDisk(err) && f.limit.exceeded() {
			err = errTooLong
		}
		cancel()
	}
	s.mu.Lock()
	f.place.Release()
	f.digest, f.err = digest, err
	if s.fetches[f.key] == f { // otherwise nobody waits for it any more
		delete(s.fetches, f.key)
	}
	s.mu.Unlock()
	close(f.done)
}

// waitForSlot waits until the fetch has its slot, or nobody waits for the fetch any more.
// The wait is bounded because all pulls that hold a slot have a timeout and the
// namespaces take turns.
func (s *fetcher) waitForSlot(ctx context.Context, f *fetch) error {
	s.mu.Lock()
	place := f.place
	s.mu.Unlock()
	if !place.HasSlot() {
		f.setQueued(true)
		select {
		case <-place.Ready():
		case <-ctx.Done():
			return ctx.Err()
		}
		f.setQueued(false)
	}
	return ctx.Err() // a select picks at random if both are ready
}

// abandon cancels the fetch if no job waits for it any more. The caller holds
// the lock.
func (s *ledger) abandon(f *fetch) {
	if f == nil {
		return
	}
	for _, j := range s.jobs {
		if j.fetch == f {
			return
		}
	}
	f.cancel()
	if s.fetches[f.key] == f {
		delete(s.fetches, f.key) // the next job starts a new fetch
	}
}

// notifyFetch notifies all who wait for the fetch.
func (s *ledger) notifyFetch(f *fetch) {
	var uids []string
	s.mu.Lock()
	for _, j := range s.jobs {
		if j.fetch == f {
			uids = slices.AppendSeq(uids, maps.Keys(j.waiters))
		}
	}
	s.mu.Unlock()
	s.notify(uids)
}

// pullingError returns the progress of the job.
func (s *Store) pullingError(j *job) error {
	s.mu.Lock()
	at := j.stage
	s.mu.Unlock()
	switch {
	case at.fetch != nil:
		return at.fetch.pullingError(j.text(), at.from, s.slots)
	case !at.until.IsZero():
		return &host.Pulling{Message: askedToWaitText(j.text(), at.until)}
	case at.queued:
		return &host.Pulling{Message: fmt.Sprintf("pulling %s: waiting for other images; the node resolves %s", j.text(), bounds(s.resolveSlots))}
	}
	return &host.Pulling{Message: fmt.Sprintf("pulling %s: querying %s", j.text(), at.from)}
}

// progress is the progress of a fetch.
type progress struct {
	clock  interface{ Now() time.Time }
	notify func()

	mu          sync.Mutex
	queued      bool
	until       time.Time // until when a server asks to wait; zero if none does
	done, total int64
	notifiedAt  time.Time // of a tenth
	waitAt      time.Time // when the last notification of a wait was sent
}

// notifyEvery keeps a fast pull from waking everybody at every tenth.
const notifyEvery = 5 * time.Second

// waitNotifyEvery does the same for the waits that servers ask for.
const waitNotifyEvery = time.Minute

// setTotal sets the number of bytes to fetch.
func (p *progress) setTotal(total int64) {
	p.mu.Lock()
	changed := total != p.total
	p.total, p.notifiedAt = total, p.clock.Now()
	p.mu.Unlock()
	if changed {
		p.notify()
	}
}

func (p *progress) add(n int64) {
	p.mu.Lock()
	before := p.tenths()
	p.done = min(p.done+n, p.total)
	now := p.clock.Now()
	notify := p.tenths() != before && now.Sub(p.notifiedAt) >= notifyEvery
	if notify {
		p.notifiedAt = now
	}
	p.mu.Unlock()
	if notify {
		p.notify()
	}
}

func (p *progress) setQueued(queued bool) {
	p.mu.Lock()
	p.queued = queued
	p.mu.Unlock()
	p.notify()
}

// setWaiting sets until when a server asks to wait; zero ends the wait. A server that
// asks often does not wake everybody each time.
func (p *progress) setWaiting(until time.Time) {
	p.mu.Lock()
	p.until = until
	now := p.clock.Now()
	notify := until.Sub(now) >= notifyEvery && now.Sub(p.waitAt) >= waitNotifyEvery
	if notify {
		p.waitAt = now
	}
	p.mu.Unlock()
	if notify {
		p.notify()
	}
}

func (p *progress) tenths() int64 {
	if p.total <= 0 {
		return 0
	}
	return int64(float64(p.done) / float64(p.total) * 10)
}

// bounds says how many slots there are, and how many a namespace can have.
func bounds(q *fairqueue.Queue) string {
	if q.Most() < q.Slots() {
		return fmt.Sprintf("at most %d at a time, %d of one namespace", q.Slots(), q.Most())
	}
	return fmt.Sprintf("at most %d at a time", q.Slots())
}

func (p *progress) pullingError(what, from string, slots *fairqueue.Queue) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := &host.Pulling{Done: p.total / 10 * p.tenths(), Total: p.total}
	switch {
	case p.queued:
		out.Message = fmt.Sprintf("pulling %s: waiting for other images; the node pulls %s", what, bounds(slots))
	case !p.until.IsZero():
		out.Message = askedToWaitText(what, p.until)
	case p.total <= 0:
		out.Message = fmt.Sprintf("pulling %s from %s", what, from)
	default:
		out.Message = fmt.Sprintf("pulling %s: %d%% of %s", what, 10*p.tenths(), bytesText(p.total))
	}
	return out
}
