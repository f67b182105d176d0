// SPDX-License-Identifier: Apache-2.0

package bundleruntime

import (
	"context"
	"net/netip"

	"botbottle.dev/bottle-operator/internal/host"
)

// Pods implements enforce.Pods.
type Pods struct {
	Choices *Choices
	// Occupied is host.Networks.OccupiedPrefixes of the adapter for Pods, which returns the
	// addresses of a Pod and of its gateways.
	Occupied func(ctx context.Context, owner host.Owner) ([]netip.Prefix, error)
}

// InPod implements enforce.Pods.
func (p Pods) InPod(uid string) bool {
	kind, err := p.Choices.Of(uid)
	return err == nil && kind == Pod
}

// Addresses implements enforce.Pods.
func (p Pods) Addresses(ctx context.Context, owner host.Owner) ([]netip.Addr, error) {
	prefixes, err := p.Occupied(ctx, owner)
	out := make([]netip.Addr, 0, len(prefixes))
	for _, prefix := range prefixes {
		out = append(out, prefix.Addr())
	}
	return out, err
}
