// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"context"
	"net/netip"

	"botbottle.dev/bottle-operator/internal/host"
)

// Networks implements host.Networks with a bridge in the network namespace of each
// Bottle's Pod.
type Networks struct{ r *Runtime }

// InspectNetwork implements host.Networks.
func (n *Networks) InspectNetwork(ctx context.Context, owner host.Owner) (host.Network, error) {
	return host.Network{}, host.ErrUnsupported
}

// OccupiedPrefixes implements host.Networks.
func (n *Networks) OccupiedPrefixes(ctx context.Context, owner host.Owner) ([]netip.Prefix, error) {
	return nil, host.ErrUnsupported
}

// EnsureNetwork implements host.Networks.
func (n *Networks) EnsureNetwork(ctx context.Context, want host.Network) error {
	return host.ErrUnsupported
}

// DeleteNetwork implements host.Networks.
func (n *Networks) DeleteNetwork(ctx context.Context, owner host.Owner) error {
	return host.ErrUnsupported
}

// ListNetworks implements host.Networks.
func (n *Networks) ListNetworks(ctx context.Context) ([]host.Network, error) {
	return nil, host.ErrUnsupported
}
