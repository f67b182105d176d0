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
	// factsInterval is the time between two inspections of the node.
	factsInterval = 10 * time.Second
	// inspectTimeout is far longer than host.Facts normally takes.
	inspectTimeout = 2 * time.Minute
)

// Facts caches the facts about the node. At most one inspection of the node
// runs at a time.
type Facts struct {
	source host.Facts
	clock  clock.WithTicker
	due    chan struct{} // Refresh sends to it

	mu      sync.Mutex
	last    []host.Fact // nil until the first inspection has ended
	at      time.Time
	running chan struct{} // closed when the running inspection ends; nil if none runs
	changed []func()
}

// NewFacts returns a cache of the facts that source finds.
func NewFacts(source host.Facts, c clock.WithTicker) *Facts {
	return &Facts{source: source, clock: c, due: make(chan struct{}, 1)}
}

// OnChange adds a function that is called after an inspection found facts that
// differ from those before.
func (k *Facts) OnChange(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changed = append(k.changed, f)
}

// Get returns the facts from the last inspection. If they are old it starts an
// inspection, but it waits for one only if there has been none yet. It returns
// nil if ctx ends first.
func (k *Facts) Get(ctx context.Context) []host.Fact {
	k.mu.Lock()
	if k.last == nil || k.clock.Since(k.at) > factsInterval {
		k.join(ctx)
	}
	last, running := k.last, k.running
	k.mu.Unlock()
	if last != nil {
		return last
	}
	select {
	case <-running:
	case <-ctx.Done():
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.last
}

// join starts an inspection unless one is running; k.mu is held.
func (k *Facts) join(ctx context.Context) {
	if k.running != nil {
		return
	}
	ended := make(chan struct{})
	k.running = ended
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), inspectTimeout)
		defer cancel()
		now := k.source.NodeFacts(ctx)
		k.mu.Lock()
		differ := k.last != nil && !slices.Equal(k.last, now)
		k.last, k.at, k.running = now, k.clock.Now(), nil
		changed := slices.Clone(k.changed)
		k.mu.Unlock()
		close(ended)
		if !differ {
			return
		}
		for _, f := range changed {
			f()
		}
	}()
}

// Refresh makes Start inspect the node at once, because a fact has changed.
func (k *Facts) Refresh() {
	select {
	case k.due <- struct{}{}:
	default: // an inspection is due already
	}
}

// Start inspects the node at regular intervals, and after each Refresh, until ctx ends.
func (k *Facts) Start(ctx context.Context) error {
	ticker := k.clock.NewTicker(factsInterval)
	defer ticker.Stop()
	for {
		k.mu.Lock()
		k.join(ctx)
		running := k.running
		k.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
		case <-k.due:
			// The running inspection may have looked before the fact changed.
			select {
			case <-running:
			case <-ctx.Done():
				return nil
			}
		}
	}
}
