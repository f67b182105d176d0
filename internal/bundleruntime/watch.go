// SPDX-License-Identifier: Apache-2.0

package bundleruntime

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// watchPause is how long watchBoth waits before it starts a watch again, or checks again
// whether a runtime is in use.
const watchPause = 10 * time.Second

// watchBoth runs a watch of each runtime until ctx ends. A watch that ends is started
// again after a pause, without disturbing the other. A runtime that is not in use is
// not watched.
func watchBoth[T any](ctx context.Context, a *adapters[T], lost func(Kind, error), watch func(context.Context, T) error) error {
	var watches sync.WaitGroup
	for _, kind := range []Kind{Docker, Pod} {
		watches.Go(func() {
			wait.UntilWithContext(ctx, func(ctx context.Context) {
				if !a.set.Active(kind) {
					return
				}
				if err := watch(ctx, a.get(kind)); ctx.Err() == nil {
					lost(kind, err)
				}
			}, watchPause)
		})
	}
	watches.Wait()
	return ctx.Err()
}
