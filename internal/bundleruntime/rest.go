// SPDX-License-Identifier: Apache-2.0

package bundleruntime

import (
	"context"
	"time"
)

// pause is the time before a watch is started again, or looked for again.
const pause = 10 * time.Second

func rest(ctx context.Context) {
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
