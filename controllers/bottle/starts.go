// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// starts runs the starts of machines apart from the passes, because a boot
// takes up to minutes: at most so many at once, one per Bottle. A result waits
// for the Bottle's next pass; one that is lost with the agent is found out
// again from the machine itself.
type starts struct {
	slots chan struct{}

	mu      sync.Mutex
	ctx     context.Context // of the agent; ends every start
	running map[string]*start
	results map[string]error
	count   int // of starts ever begun
	all     sync.WaitGroup
}

type start struct {
	cancel context.CancelCauseFunc
	ended  chan struct{}
}

var errStartCancelled = errors.New("the start was called off")

func newStarts(atOnce int) *starts {
	return &starts{
		slots:   make(chan struct{}, max(1, atOnce)),
		ctx:     context.Background(),
		running: map[string]*start{},
		results: map[string]error{},
	}
}

// under makes the starts that begin from now on end with ctx.
func (s *starts) under(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ctx = ctx
}

// begin runs boot for uid unless one is under way, and calls ended after it.
func (s *starts) begin(uid string, boot func(context.Context) error, ended func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[uid] != nil {
		return
	}
	ctx, cancel := context.WithCancelCause(s.ctx)
	st := &start{cancel: cancel, ended: make(chan struct{})}
	s.running[uid] = st
	s.count++
	delete(s.results, uid)
	s.all.Go(func() {
		err := s.inSlot(ctx, boot)
		s.mu.Lock()
		delete(s.running, uid)
		if !errors.Is(context.Cause(ctx), errStartCancelled) {
			s.results[uid] = err
		}
		s.mu.Unlock()
		cancel(nil)
		close(st.ended)
		ended()
	})
}

func (s *starts) inSlot(ctx context.Context, boot func(context.Context) error) error {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
		return boot(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// begun is how many starts there ever were.
func (s *starts) begun() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// underWay says whether a start of uid is.
func (s *starts) underWay(uid string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running[uid] != nil
}

// take returns the result of the last start of uid, once.
func (s *starts) take(uid string) (err error, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err, ok = s.results[uid]
	delete(s.results, uid)
	return err, ok
}

// callOff ends a start that is under way and waits until it ended.
func (s *starts) callOff(ctx context.Context, uid string) error {
	s.mu.Lock()
	st := s.running[uid]
	delete(s.results, uid)
	s.mu.Unlock()
	if st == nil {
		return nil
	}
	st.cancel(errStartCancelled)
	select {
	case <-st.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("call off the machine's start: %w", context.Cause(ctx))
	}
}

// wait returns when no start is under way.
func (s *starts) wait() { s.all.Wait() }
