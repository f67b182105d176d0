// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"sync"
	"time"
)

// guard checks all machines and walls, kills machines that are not confined,
// and repairs walls.
type guard struct {
	Options
	watched *registry
	leaks   *leaks
	walls   *walls

	failing bool // the last scan failed; guarded by watched.mu

	rechecks, saving sync.WaitGroup // what goes on after a scan
}

const (
	// shortestRest is the least pause between two scans, so that one scan sees
	// several changes that follow each other quickly.
	shortestRest = 20 * time.Millisecond
	// watchRetry is the pause before a watch that ended is restarted. Until
	// then, scans still run at each interval.
	watchRetry = 10 * time.Second
)

// start scans until ctx ends: at each interval, and as soon as the kernel
// reports a change to a wall. Scans take at most a fifth of the time.
func (g *guard) start(ctx context.Context) error {
	happened := make(chan struct{}, 1)
	go g.watch(ctx, happened)
	ticker := g.Clock.NewTicker(g.Interval)
	defer ticker.Stop()
	for {
		started := g.Clock.Now()
		g.scan(ctx)
		rest := g.Clock.After(max(shortestRest, 4*g.Clock.Since(started)))
		select {
		case <-ctx.Done():
			return nil
		case <-rest:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
		case <-happened:
		}
	}
}

// watch signals changes to walls on happened until ctx ends.
func (g *guard) watch(ctx context.Context, happened chan<- struct{}) {
	for ctx.Err() == nil {
		err := g.Walls.WatchWalls(ctx, func() {
			select {
			case happened <- struct{}{}:
			default: // a scan is already due
			}
		})
		if ctx.Err() != nil {
			return
		}
		g.Log.Error(err, "Walls cannot be watched, so they are checked only at each interval")
		select {
		case <-ctx.Done():
		case <-g.Clock.After(watchRetry):
		}
	}
}
