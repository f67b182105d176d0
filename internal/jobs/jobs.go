// SPDX-License-Identifier: Apache-2.0

// Package jobs runs what takes too long for a reconcile pass, such as the boot
// of a machine or a proof, apart from the passes.
package jobs

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Set runs at most so many jobs in parallel, and one for each UID. The result
// of a job is kept until it is taken. A result that is lost with the agent
// must be possible to find out again.
type Set[R any] struct {
	slots chan struct{}

	mu      sync.Mutex
	ctx     context.Context // of the agent; ends every job
	running map[string]*job
	results map[string]R
	started int
	all     sync.WaitGroup
}

type job struct {
	cancel context.CancelCauseFunc
	ended  chan struct{}
}

// ErrCancelled is the cause of the context of a job that Cancel ended.
var ErrCancelled = errors.New("the job was cancelled")

// New returns a Set that runs at most that many jobs in parallel, at least one.
func New[R any](parallel int) *Set[R] {
	return &Set[R]{
		slots:   make(chan struct{}, max(1, parallel)),
		ctx:     context.Background(),
		running: map[string]*job{},
		results: map[string]R{},
	}
}

// Bind makes the jobs that are started from now on end with ctx.
func (s *Set[R]) Bind(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ctx = ctx
}

// Start runs do for uid, unless a job of uid is running or waits for its slot,
// and calls ended after it.
func (s *Set[R]) Start(uid string, do func(context.Context) R, ended func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[uid] != nil {
		return
	}
	ctx, cancel := context.WithCancelCause(s.ctx)
	one := &job{cancel: cancel, ended: make(chan struct{})}
	s.running[uid] = one
	s.started++
	delete(s.results, uid)
	s.all.Go(func() {
		result, ran := s.inSlot(ctx, do)
		s.mu.Lock()
		delete(s.running, uid)
		if ran && !errors.Is(context.Cause(ctx), ErrCancelled) {
			s.results[uid] = result
		}
		s.mu.Unlock()
		cancel(nil)
		close(one.ended)
		ended()
	})
}

func (s *Set[R]) inSlot(ctx context.Context, do func(context.Context) R) (result R, ran bool) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
		return do(ctx), true
	case <-ctx.Done():
		return result, false
	}
}

// Started returns how many jobs were ever started.
func (s *Set[R]) Started() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.started
}

// Running says whether a job of uid is running or waits for its slot.
func (s *Set[R]) Running(uid string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running[uid] != nil
}

// Take returns the result of the last job of uid, once.
func (s *Set[R]) Take(uid string) (result R, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	result, ok = s.results[uid]
	delete(s.results, uid)
	return result, ok
}

// Cancel ends the job of uid, if there is one, waits until it has ended, and
// drops its result.
func (s *Set[R]) Cancel(ctx context.Context, uid string) error {
	s.mu.Lock()
	one := s.running[uid]
	delete(s.results, uid)
	s.mu.Unlock()
	if one == nil {
		return nil
	}
	one.cancel(ErrCancelled)
	select {
	case <-one.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cancel a job: %w", context.Cause(ctx))
	}
}

// Wait returns when no job is running.
func (s *Set[R]) Wait() { s.all.Wait() }
