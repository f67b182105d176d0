// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"slices"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"botbottle.dev/bottle-operator/internal/host"
)

const (
	// factsEvery is the time between two looks at the node.
	factsEvery = 10 * time.Second
	// lookTimeout is far above what host.Facts takes by itself.
	lookTimeout = 2 * time.Minute
)

// Facts keeps the facts about the node for everyone who needs them. At most
// one look at the node is under way.
type Facts struct {
	source host.Facts
	clock  clock.WithTicker

	mu      sync.Mutex
	last    []host.Fact // nil before the first look has ended
	at      time.Time
	looking chan struct{} // closed when the look that is under way has ended
	changed []func()
}

// NewFacts returns the keeper of what source finds.
func NewFacts(source host.Facts, c clock.WithTicker) *Facts {
	return &Facts{source: source, clock: c}
}

// OnChange adds a function that is called after a look found other facts than
// the one before.
func (k *Facts) OnChange(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changed = append(k.changed, f)
}

// Get returns the facts as of the last look. It starts a look when they are
// old, but waits for one only when there has been none yet. It returns nil if
// ctx ends first.
func (k *Facts) Get(ctx context.Context) []host.Fact {
	k.mu.Lock()
	if k.last == nil || k.clock.Since(k.at) > factsEvery {
		k.join(ctx)
	}
	last, looking := k.last, k.looking
	k.mu.Unlock()
	if last != nil {
		return last
	}
	select {
	case <-looking:
	case <-ctx.Done():
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.last
}

// join starts a look unless one is under way; k.mu is held.
func (k *Facts) join(ctx context.Context) {
	if k.looking != nil {
		return
	}
	ended := make(chan struct{})
	k.looking = ended
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
		defer cancel()
		now := k.source.NodeFacts(ctx)
		k.mu.Lock()
		turned := k.last != nil && !slices.Equal(k.last, now)
		k.last, k.at, k.looking = now, k.clock.Now(), nil
		changed := slices.Clone(k.changed)
		k.mu.Unlock()
		close(ended)
		if !turned {
			return
		}
		for _, f := range changed {
			f()
		}
	}()
}

// Start looks at the node until ctx ends.
func (k *Facts) Start(ctx context.Context) error {
	ticker := k.clock.NewTicker(factsEvery)
	defer ticker.Stop()
	for {
		k.mu.Lock()
		k.join(ctx)
		k.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
		}
	}
}
