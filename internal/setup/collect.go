// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/utils/clock"

	"botbottle.dev/bottle-operator/internal/image"
)

const (
	// collectEvery is the time between two looks for images that can go.
	collectEvery = 5 * time.Minute
	// collectPause is how long refused pulls have to wait after a look: each
	// asks smolvm for its machines.
	collectPause = 10 * time.Second
)

// collected is what the collector needs of the store.
type collected interface {
	Collect(ctx context.Context, used func(ctx context.Context) (image.Used, error)) (image.Collected, error)
	Refused() <-chan struct{}
	Close() error
}

// collector keeps the store within the disk, and closes it at the end.
type collector struct {
	store collected
	used  func(ctx context.Context) (image.Used, error)
	clock clock.WithTicker
	log   logr.Logger

	short bool   // as logged
	said  string // the last error that was
}

// Start implements manager.Runnable.
func (c *collector) Start(ctx context.Context) error {
	ticker := c.clock.NewTicker(collectEvery)
	defer ticker.Stop()
	pause := c.clock.NewTimer(collectPause)
	defer pause.Stop()
	pause.Stop()                 // none before the first look
	refused := c.store.Refused() // nil during the pause
	for {
		select {
		case <-ctx.Done():
			return c.store.Close()
		case <-pause.C():
			refused = c.store.Refused()
			continue
		case <-ticker.C():
		case <-refused:
		}
		c.collect(ctx)
		refused = nil
		pause.Reset(collectPause)
	}
}

// collect logs what happened, and once what goes on.
func (c *collector) collect(ctx context.Context) {
	got, err := c.store.Collect(ctx, c.used)
	if ctx.Err() != nil {
		return
	}
	said := ""
	if err != nil {
		said = err.Error()
	}
	if said != "" && said != c.said {
		c.log.Error(err, "Images could not be collected")
	}
	c.said = said
	if got.Archives+got.Cached > 0 {
		c.log.Info("Images that nobody uses were removed", "archives", got.Archives, "cached", got.Cached, "bytes", got.Bytes)
	}
	switch short := got.Short > 0; {
	case short && !c.short:
		c.log.Info("The disk stays fuller than it should, for all images are in use or young", "bytes", got.Short)
		c.short = true
	case !short && c.short && err == nil: // else it may not be known
		c.log.Info("The disk is no fuller than it should be any more")
		c.short = false
	}
}
