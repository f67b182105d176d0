// SPDX-License-Identifier: Apache-2.0

package nodefacts

import (
	"context"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// slack is what a look gets beyond its bound to say itself what was too slow.
const slack = time.Second

// source looks at one fact. A disk that hangs cannot be interrupted, so a look
// may outlast its bound; then no other one starts before it has ended, and
// looks that hang do not pile up.
type source struct {
	name  string
	bound time.Duration
	look  func(ctx context.Context) host.Fact

	mu      sync.Mutex
	current *look // under way
}

type look struct {
	done chan struct{}
	fact host.Fact // set before done is closed
}

// fact returns what the look found, or a failing fact when its bound, or ctx,
// is over first.
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
	return bad(s.name, "%s could not be checked within %s: look for a disk or a program on the node that hangs", s.name, s.bound)
}

// join returns the look that is under way, and starts one if there is none.
func (s *source) join(ctx context.Context) *look {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil {
		return s.current
	}
	l := &look{done: make(chan struct{})}
	s.current = l
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.bound)
		defer cancel()
		l.fact = s.look(ctx)
		s.mu.Lock()
		s.current = nil
		s.mu.Unlock()
		close(l.done)
	}()
	return l
}
