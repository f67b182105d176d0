// SPDX-License-Identifier: Apache-2.0

package bundleruntime

import (
	"context"
	"time"
)

// watchPause is how long watchBoth waits before it starts a watch again, or checks again
// whether a runtime is in use.
const watchPause = 10 * time.Second

// watchBoth runs a watch of each runtime until ctx ends. A watch that ends is started
// again after a pause, without disturbing the other. A runtime that is not in use is
// not watched.
func watchBoth[T any](ctx context.Context, a *adapters[T], lost func(Kind, error), watch func(context.Context, T) error) error {
	done := make(chan struct{}, 2)
	for _, kind := range []Kind{Docker, Pod} {
		go func() {
			defer func() { done <- struct{}{} }()
			for ctx.Err() == nil {
				if a.set.Active(kind) {
					if err := watch(ctx, a.get(kind)); ctx.Err() == nil {
						lost(kind, err)
					}
				}
				pause(ctx)
			}
		}()
	}
	<-done
	<-done
	return ctx.Err()
}

// pause waits for watchPause, or until ctx ends.
func pause(ctx context.Context) {
	t := time.NewTimer(watchPause)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
