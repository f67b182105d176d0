// SPDX-License-Identifier: Apache-2.0

package nodefacts

import (
	"context"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// slack is the time after its bound in which a check may still report itself
// what was too slow.
const slack = time.Second

// source checks one fact. A disk that hangs cannot be interrupted, so a check
// may outlast its bound. No other check of the fact starts before it has ended,
// so hanging checks do not pile up.
type source struct {
	name  string
	bound time.Duration
	check func(ctx context.Context) host.Fact
	// needed reports whether the fact matters to the node; nil means always.
	needed func(ctx context.Context) bool

	mu      sync.Mutex
	current *check // the running check, nil if none
}

type check struct {
	done chan struct{}
	fact host.Fact // set before done is closed
}

// fact returns the result of a check, or a failing fact if the bound or ctx ends
// first.
func (s *source) fact(ctx context.Context) host.Fact {
	l := s.join(ctx)
	late := time.NewTimer(s.bound + slack)
	defer late.Stop()
	select {
	case <-l.done:
		return l.fact
	case <-late.C:
	case <-ctx.Done():
	}
	return bad(s.name, "%s could not be checked within %s: find the disk or program on the node that hangs", s.name, s.bound)
}

// join returns the running check, and starts one if there is none.
func (s *source) join(ctx context.Context) *check {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil {
		return s.current
	}
	l := &check{done: make(chan struct{})}
	s.current = l
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.bound)
		defer cancel()
		l.fact = s.check(ctx)
		s.mu.Lock()
		s.current = nil
		s.mu.Unlock()
		close(l.done)
	}()
	return l
}
