// SPDX-License-Identifier: Apache-2.0

package bundleruntime

import (
	"context"
	"time"
)

// pause is how long watchBoth waits before it starts a watch again, or checks again whether
// a runtime is in use.
const pause = 10 * time.Second

// rest waits for that time, or until ctx ends.
func rest(ctx context.Context) {
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
