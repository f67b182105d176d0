// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"time"
)

// guard looks at all machines and walls, kills what is not confined, and
// repairs what can be repaired.
type guard struct {
	Options
	watched *registry
	leaks   *leaks
	walls   *walls

	failing bool // the last look failed; guarded by watched.mu
}

const (
	// shortestRest lets one look see what happens in quick succession.
	shortestRest = 20 * time.Millisecond
	// watchRetry is the pause before a watch that ended is started again. The
	// looks go on by the clock meanwhile.
	watchRetry = 10 * time.Second
)

// start looks until ctx ends: at each interval, and as soon as the kernel
// reports that something happened to a wall, but never for more than a fifth
// of the time.
func (g *guard) start(ctx context.Context) error {
	happened := make(chan struct{}, 1)
	go g.watch(ctx, happened)
	ticker := g.Clock.NewTicker(g.Interval)
	defer ticker.Stop()
	for {
		started := g.Clock.Now()
		g.look(ctx)
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

// watch fills happened until ctx ends.
func (g *guard) watch(ctx context.Context, happened chan<- struct{}) {
	for ctx.Err() == nil {
		err := g.Walls.WatchWalls(ctx, func() {
			select {
			case happened <- struct{}{}:
			default: // a look is due already
			}
		})
		if ctx.Err() != nil {
			return
		}
		g.Log.Error(err, "Walls cannot be watched, so they are looked at only at each interval")
		select {
		case <-ctx.Done():
		case <-g.Clock.After(watchRetry):
		}
	}
}
