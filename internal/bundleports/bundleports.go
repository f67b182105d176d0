// SPDX-License-Identifier: Apache-2.0

// Package bundleports waits until a bundle that was just started answers on its ports.
package bundleports

import (
	"context"
	"net/netip"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

const (
	// Patience is how long to wait for a container that has just started. The built-in
	// bundle needs milliseconds.
	Patience = time.Second
	interval = 20 * time.Millisecond
)

// Bundles is the part of host.Bundles that Silent needs.
type Bundles interface {
	UnansweredPorts(ctx context.Context, owner host.Owner, ip netip.Addr, ports []int32) ([]int32, error)
}

// At are ports of a bundle.
type At struct {
	Owner host.Owner
	IP    netip.Addr
	Ports []int32
}

// Silent returns the ports that do not answer. It tries again until all answer or the
// patience is used up.
func Silent(ctx context.Context, b Bundles, at At, patience time.Duration) ([]int32, error) {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		silent, err := b.UnansweredPorts(ctx, at.Owner, at.IP, at.Ports)
		if err != nil || len(silent) == 0 || patience == 0 {
			return silent, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-timeout.C:
			return silent, nil
		case <-time.After(interval):
		}
	}
}
