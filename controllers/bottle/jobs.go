// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// jobs run what takes too long for a pass (boots, proofs) apart from the
// passes: at most so many at once, one per Bottle. A result waits for the
// Bottle's next pass; one that is lost with the agent is found out again from
// the machine itself.
type jobs[R any] struct {
	slots chan struct{}

	mu      sync.Mutex
	ctx     context.Context // of the agent; ends every job
	running map[string]*job
	results map[string]R
	count   int // of jobs ever begun
	all     sync.WaitGroup
}

type job struct {
	cancel context.CancelCauseFunc
	ended  chan struct{}
}

var errCalledOff = errors.New("it was called off")

func newJobs[R any](atOnce int) *jobs[R] {
	return &jobs[R]{
		slots:   make(chan struct{}, max(1, atOnce)),
		ctx:     context.Background(),
		running: map[string]*job{},
		results: map[string]R{},
	}
}

// under makes the jobs that begin from now on end with ctx.
func (j *jobs[R]) under(ctx context.Context) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ctx = ctx
}

// begin runs do for uid unless a job of it is under way, and calls ended after
// it.
func (j *jobs[R]) begin(uid string, do func(context.Context) R, ended func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.running[uid] != nil {
		return
	}
	ctx, cancel := context.WithCancelCause(j.ctx)
	one := &job{cancel: cancel, ended: make(chan struct{})}
	j.running[uid] = one
	j.count++
	delete(j.results, uid)
	j.all.Go(func() {
		result, ran := j.inSlot(ctx, do)
		j.mu.Lock()
		delete(j.running, uid)
		if ran && !errors.Is(context.Cause(ctx), errCalledOff) {
			j.results[uid] = result
		}
		j.mu.Unlock()
		cancel(nil)
		close(one.ended)
		ended()
	})
}

func (j *jobs[R]) inSlot(ctx context.Context, do func(context.Context) R) (result R, ran bool) {
	select {
	case j.slots <- struct{}{}:
		defer func() { <-j.slots }()
		return do(ctx), true
	case <-ctx.Done():
		return result, false
	}
}

// begun is how many jobs there ever were.
func (j *jobs[R]) begun() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.count
}

// underWay says whether a job of uid is.
func (j *jobs[R]) underWay(uid string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.running[uid] != nil
}

// take returns the result of the last job of uid, once.
func (j *jobs[R]) take(uid string) (result R, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	result, ok = j.results[uid]
	delete(j.results, uid)
	return result, ok
}

// callOff ends a job that is under way and waits until it ended. what is for
// the error.
func (j *jobs[R]) callOff(ctx context.Context, uid, what string) error {
	j.mu.Lock()
	one := j.running[uid]
	delete(j.results, uid)
	j.mu.Unlock()
	if one == nil {
		return nil
	}
	one.cancel(errCalledOff)
	select {
	case <-one.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("call off the %s: %w", what, context.Cause(ctx))
	}
}

// wait returns when no job is under way.
func (j *jobs[R]) wait() { j.all.Wait() }
