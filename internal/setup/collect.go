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
	// collectInterval is how often the collector removes images that can go.
	collectInterval = 5 * time.Minute
	// collectPause is how long refused pulls have to wait after a collection,
	// because each collection lists smolvm's machines.
	collectPause = 10 * time.Second
)

// imageStore is the part of the image store that the collector needs.
type imageStore interface {
	Collect(ctx context.Context, used func(ctx context.Context) (image.Used, error)) (image.Collected, error)
	Refused() <-chan struct{}
	Close() error
}

// collector removes unused images when the disk is too full. It closes the store
// when it ends.
type collector struct {
	store imageStore
	used  func(ctx context.Context) (image.Used, error)
	clock clock.WithTicker
	log   logr.Logger

	short     bool   // whether the last log line about the disk reported a shortage
	lastError string // the last error that was logged; "" after a success
}

// Start implements manager.Runnable.
func (c *collector) Start(ctx context.Context) error {
	ticker := c.clock.NewTicker(collectInterval)
	defer ticker.Stop()
	pause := c.clock.NewTimer(collectPause)
	defer pause.Stop()
	pause.Stop()                 // no pause before the first collection
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

// collect runs one collection and logs what it removed. It logs a lasting problem
// only once.
func (c *collector) collect(ctx context.Context) {
	got, err := c.store.Collect(ctx, c.used)
	if ctx.Err() != nil {
		return
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != c.lastError {
		c.log.Error(err, "Could not remove unused images")
	}
	c.lastError = text
	if got.Archives+got.Cached+got.Partial > 0 {
		c.log.Info("Removed unused images", "archives", got.Archives, "cached", got.Cached, "interruptedPulls", got.Partial, "bytes", got.Bytes)
	}
	switch short := got.Short > 0; {
	case short && !c.short:
		c.log.Info("The disk is still too full: all remaining images are in use or too new to remove", "bytes", got.Short)
		c.short = true
	case !short && c.short && err == nil: // after an error it may be unknown
		c.log.Info("The disk is no longer too full")
		c.short = false
	}
}
