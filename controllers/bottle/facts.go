// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"slices"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"botbottle.dev/bottle-operator/internal/host"
)

// factsEvery is how old the node's facts may be when a pass reads them.
const factsEvery = 10 * time.Second

// factDocker is the fact that the network and bundle steps need; all others
// are the machine's.
const factDocker = "docker"

// factKeeper looks at the node at most once per factsEvery, for all passes.
type factKeeper struct {
	facts host.Facts
	clock clock.WithTicker

	mu      sync.Mutex
	last    []host.Fact
	at      time.Time
	changed []func()
}

func newFactKeeper(f host.Facts, c clock.WithTicker, changed func()) *factKeeper {
	return &factKeeper{facts: f, clock: c, changed: []func(){changed}}
}

// onChange adds a function that is called when a fact turned.
func (k *factKeeper) onChange(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changed = append(k.changed, f)
}

// get returns the facts as of not long ago.
func (k *factKeeper) get(ctx context.Context) []host.Fact {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.last == nil || k.clock.Since(k.at) > factsEvery {
		k.last, k.at = k.facts.NodeFacts(ctx), k.clock.Now()
	}
	return k.last
}

// look looks at the node now and tells when it differs from before.
func (k *factKeeper) look(ctx context.Context) {
	k.mu.Lock()
	before := k.last
	k.last, k.at = k.facts.NodeFacts(ctx), k.clock.Now()
	turned := before != nil && !slices.Equal(before, k.last)
	changed := k.changed
	k.mu.Unlock()
	if !turned {
		return
	}
	for _, f := range changed {
		f()
	}
}

// Start looks at the node until ctx ends.
func (k *factKeeper) Start(ctx context.Context) error {
	ticker := k.clock.NewTicker(factsEvery)
	defer ticker.Stop()
	for {
		k.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
		}
	}
}

// failing returns the first failing fact whose name concerns the caller, or nil.
func failing(facts []host.Fact, concerns func(name string) bool) *host.Fact {
	for _, f := range facts {
		if !f.OK && concerns(f.Name) {
			return &f
		}
	}
	return nil
}

func forDocker(name string) bool   { return name == factDocker }
func forMachines(name string) bool { return name != factDocker }
func forAnything(string) bool      { return true }
