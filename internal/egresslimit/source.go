// SPDX-License-Identifier: Apache-2.0

// Package egresslimit keeps the platform's limits on egress rules up to date: what
// the agent's flags say, and the addresses of the node, which change. It applies no
// limit itself: package egress judges rules and addresses, and internal/enforce
// writes the rules of the bundles.
package egresslimit

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/utils/clock"

	"botbottle.dev/bottle-operator/internal/egress"
)

const (
	// interval is the time between two readings of the node's addresses without a
	// notification.
	interval = 10 * time.Second
	// rest is the shortest pause before a reading, so that one reading sees several
	// changes. After a slow reading, the pause is restFactor times as long as that
	// reading took, up to restMax: a node with hundreds of interfaces takes tens of
	// milliseconds to read, and interfaces can come and go for a long time.
	rest       = 50 * time.Millisecond
	restFactor = 10
	restMax    = time.Second
	// retryPause is the pause after a failure.
	retryPause = time.Second
)

// Options of a Source. All are required unless the comment says otherwise.
type Options struct {
	// Pool is the network that Bottles get their subnets from.
	Pool netip.Prefix
	// Closed are the networks that the administrator closes; there may be none.
	Closed []netip.Prefix
	// Ceiling is the most that any Bottle may open; nil for no ceiling.
	Ceiling *egress.Set
	// Addresses reads the node's addresses and the networks of its Bottles.
	Addresses func() ([]egress.Closed, error)
	// Watch calls changed whenever the addresses may have changed, until ctx ends.
	Watch func(ctx context.Context, changed func()) error
	Clock clock.WithTicker
	Log   logr.Logger
}

// Source holds the present limits. It is safe for concurrent use.
type Source struct {
	Options
	wake chan struct{}

	mu       sync.Mutex
	local    []egress.Closed
	external []egress.Closed
	limits   egress.Limits
	applied  bool // since the last change
}

// New reads the node's addresses and returns a Source with the first limits.
func New(o Options) (*Source, error) {
	s := &Source{Options: o, wake: make(chan struct{}, 1)}
	if err := s.read(); err != nil {
		return nil, err
	}
	return s, nil
}

// Limits returns the present limits. The caller must not change them.
func (s *Source) Limits() egress.Limits {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.limits
}

// SetExternal sets addresses of the node that none of its interfaces has, such as those
// that its Node object lists.
func (s *Source) SetExternal(addresses []netip.Addr) {
	var external []egress.Closed
	for _, a := range addresses {
		if a = a.Unmap().WithZone(""); a.IsValid() {
			external = append(external, egress.Closed{Network: netip.PrefixFrom(a, a.BitLen()), By: egress.ByNode})
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.external = external
	s.compute()
}

// External returns the addresses that SetExternal set.
func (s *Source) External() []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]netip.Addr, len(s.external))
	for i, c := range s.external {
		out[i] = c.Network.Addr()
	}
	return out
}

// Run follows the node's addresses until ctx ends. It calls apply once at the start
// and after each change of the limits, and again until apply succeeds.
func (s *Source) Run(ctx context.Context, apply func() error) {
	go s.watch(ctx)
	failing := ""
	for ctx.Err() == nil {
		start := s.Clock.Now()
		readErr := s.read()
		took := s.Clock.Since(start)
		err := cmp.Or(readErr, s.apply(apply)) // flags apply even if the addresses cannot be read
		pause := interval
		if err != nil {
			pause = retryPause
			if err.Error() != failing {
				s.Log.Error(err, "The limits on egress rules are not all in force yet; trying again")
			}
			failing = err.Error()
		} else {
			failing = ""
		}
		select {
		case <-ctx.Done():
		case <-s.wake:
			select {
			case <-ctx.Done():
			case <-s.Clock.After(max(rest, min(restFactor*took, restMax))):
			}
		case <-s.Clock.After(pause):
		}
	}
}

func (s *Source) apply(apply func() error) error {
	s.mu.Lock()
	applied := s.applied
	s.applied = true // a change during apply resets it
	s.mu.Unlock()
	if applied {
		return nil
	}
	err := apply()
	if err != nil {
		s.mu.Lock()
		s.applied = false
		s.mu.Unlock()
	}
	return err
}

func (s *Source) watch(ctx context.Context) {
	for ctx.Err() == nil {
		err := s.Watch(ctx, s.signal)
		if ctx.Err() != nil {
			return
		}
		s.Log.Error(err, "The node's addresses cannot be watched, so they are read only at each interval")
		s.signal() // something may have been missed
		select {
		case <-ctx.Done():
		case <-s.Clock.After(interval):
		}
	}
}

func (s *Source) signal() {
	select {
	case s.wake <- struct{}{}:
	default: // a reading is already due
	}
}

// read reads the node's addresses. With an error the limits stay as they were.
func (s *Source) read() error {
	local, err := s.Addresses()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.local = local
	s.compute()
	return nil
}

// compute sets the limits. It leaves out addresses that are closed anyway, such as
// those of the bridges of the Bottles' networks, so that a new Bottle changes
// nothing for the others. The caller holds s.mu.
func (s *Source) compute() {
	l := egress.Limits{Ceiling: s.Ceiling, Closed: []egress.Closed{{Network: s.Pool.Masked(), By: egress.BySubnetPool}}}
	for _, n := range s.Options.Closed {
		l.Closed = append(l.Closed, egress.Closed{Network: n.Masked(), By: egress.ByFlag})
	}
	fixed := l
	for _, c := range slices.Concat(s.local, s.external) {
		if !fixed.Closes(c.Network) {
			l.Closed = append(l.Closed, c)
		}
	}
	slices.SortFunc(l.Closed[len(fixed.Closed):], func(a, b egress.Closed) int {
		return cmp.Or(a.Network.Compare(b.Network), cmp.Compare(a.By, b.By))
	})
	l.Closed = slices.Compact(l.Closed)
	if slices.Equal(l.Closed, s.limits.Closed) {
		return
	}
	s.limits, s.applied = l, false
	s.signal()
}
