// SPDX-License-Identifier: Apache-2.0

// Package jobs runs work that takes too long for a pass of a controller, such as
// the start of a machine. It runs at most one job per UID, and a bounded number
// in parallel, for which the namespaces take turns. It keeps nothing across a
// restart of the agent: the caller must find out by observation what a lost job
// has done.
package jobs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"botbottle.dev/bottle-operator/internal/fairqueue"
	"botbottle.dev/bottle-operator/internal/host"
)

// Set runs jobs whose result is an R. A result is kept until it is taken, or
// until the UID's next job starts.
type Set[R any] struct {
	kind  string
	slots *fairqueue.Queue
	clock clock.PassiveClock

	mu      sync.Mutex
	ctx     context.Context // parent of every job's context
	running map[string]*job
	results map[string]R
	started int
	all     sync.WaitGroup
}

type job struct {
	start  time.Time
	cancel context.CancelCauseFunc
	ended  chan struct{}
}

var errCanceled = errors.New("the job was canceled")

// New returns a Set that runs at most parallel jobs at a time. kind names such a
// job in errors ("machine start").
func New[R any](kind string, parallel int, c clock.PassiveClock) *Set[R] {
	return &Set[R]{
		kind:    kind,
		clock:   c,
		slots:   fairqueue.New(parallel, 0),
		ctx:     context.Background(),
		running: map[string]*job{},
		results: map[string]R{},
	}
}

// Bind makes ctx the parent of the contexts of all jobs that start from now on.
func (s *Set[R]) Bind(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ctx = ctx
}

// Start runs a job for owner.UID in its own goroutine and returns immediately. It
// does nothing while an earlier job of the UID runs or waits for its turn, which
// is a turn of owner.Namespace. The context of run ends when the job is canceled.
// When the job has ended, its result can be taken, and then ended is called. A
// canceled job has no result.
func (s *Set[R]) Start(owner host.Owner, run func(context.Context) R, ended func()) {
	uid := owner.UID
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[uid] != nil {
		return
	}
	ctx, cancel := context.WithCancelCause(s.ctx)
	j := &job{start: s.clock.Now(), cancel: cancel, ended: make(chan struct{})}
	s.running[uid] = j
	s.started++
	delete(s.results, uid)
	place := s.slots.Enter(owner.Namespace)
	s.all.Go(func() {
		result, ran := inSlot(ctx, place, run)
		s.mu.Lock()
		delete(s.running, uid)
		if ran && !errors.Is(context.Cause(ctx), errCanceled) {
			s.results[uid] = result
		}
		s.mu.Unlock()
		cancel(nil)
		close(j.ended)
		ended()
	})
}

// inSlot waits for a slot and runs the job. ran is false if the context ended
// first.
func inSlot[R any](ctx context.Context, place *fairqueue.Ticket, run func(context.Context) R) (result R, ran bool) {
	defer place.Release()
	select {
	case <-place.Ready():
	case <-ctx.Done():
		return result, false
	}
	if ctx.Err() != nil { // select picks at random if both are ready
		return result, false
	}
	return run(ctx), true
}

// Started returns the number of jobs started so far.
func (s *Set[R]) Started() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.started
}

// Running reports whether a job of uid runs or waits for its turn.
func (s *Set[R]) Running(uid string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running[uid] != nil
}

// Age returns how long ago the job of uid that runs, or waits for its turn, was
// started. ok is false if there is none.
func (s *Set[R]) Age(uid string) (age time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.running[uid]
	if j == nil {
		return 0, false
	}
	return s.clock.Since(j.start), true
}

// Take returns the result of the last job of uid and forgets it. ok is false
// if there is none.
func (s *Set[R]) Take(uid string) (result R, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	result, ok = s.results[uid]
	delete(s.results, uid)
	return result, ok
}

// Cancel cancels the job of uid, waits until it has ended, and forgets its
// result. It returns nil if no job of uid runs, and an error if ctx ends
// first.
func (s *Set[R]) Cancel(ctx context.Context, uid string) error {
	s.mu.Lock()
	j := s.running[uid]
	delete(s.results, uid)
	s.mu.Unlock()
	if j == nil {
		return nil
	}
	j.cancel(errCanceled)
	select {
	case <-j.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cancel the %s: %w", s.kind, context.Cause(ctx))
	}
}

// Wait returns when no job runs.
func (s *Set[R]) Wait() { s.all.Wait() }
