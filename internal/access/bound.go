// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"time"

	"github.com/go-logr/logr"

	"botbottle.dev/bottle-operator/internal/host"
)

const (
	// boundInterval is how often the logs of the machines are looked at.
	boundInterval = 5 * time.Second
	// maxLog bounds each log of a machine on the node. A log that is larger loses its
	// older half.
	maxLog = 32 << 20
)

// LogBounds keeps the logs of this node's machines bounded. smolvm itself does that only
// for some logs of some releases.
type LogBounds struct {
	Bottles  Bottles
	Machines host.Machines
	Log      logr.Logger
}

// Start runs until ctx ends.
func (b LogBounds) Start(ctx context.Context) error {
	look := time.NewTicker(boundInterval)
	defer look.Stop()
	failed := map[string]bool{} // machines whose last attempt failed
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
		ids, err := b.Bottles.IDs(ctx)
		if err != nil {
			continue // only before the cache is filled, or at the end
		}
		now := map[string]bool{}
		for _, id := range ids {
			freed, err := b.Machines.BoundLogs(ctx, id, maxLog)
			if freed > 0 {
				b.Log.Info("Freed the older half of a log that had become too large", "machine", id, "bytes", freed)
			}
			if now[id] = err != nil; err != nil && !failed[id] {
				b.Log.Info("Cannot limit the size of a machine's logs", "machine", id, "cause", err.Error())
			}
		}
		failed = now
	}
}
