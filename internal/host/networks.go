// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"net/netip"
)

// Network is the docker bridge network of one Bottle.
type Network struct {
	Owner   Owner
	Subnet  netip.Prefix
	Gateway netip.Addr
}

// Networks are the docker bridge networks of this node's Bottles. All methods
// may be called again at any time; ErrUnavailable means that dockerd does not
// answer.
type Networks interface {
	// InspectNetwork returns the owner's network: ErrNotFound when there is
	// none, ErrConflict when a network of its name is someone else's.
	InspectNetwork(ctx context.Context, owner Owner) (Network, error)
	// OccupiedPrefixes returns what a new subnet must not overlap: the subnets
	// of every docker network but the owner's own, and the addresses and
	// routes of the node (not its default routes, nor those of the owner's own
	// bridge).
	OccupiedPrefixes(ctx context.Context, owner Owner) ([]netip.Prefix, error)
	// EnsureNetwork makes the network; one of ours that is equal is success,
	// an unequal one of ours is replaced. ErrConflict when a network of its
	// name is someone else's, ErrOverlap when the subnet is taken.
	EnsureNetwork(ctx context.Context, n Network) error
	// DeleteNetwork removes the owner's network; absent or someone else's is
	// nil.
	DeleteNetwork(ctx context.Context, owner Owner) error
	// ListNetworks returns the networks that bear our labels, of any cluster
	// and node.
	ListNetworks(ctx context.Context) ([]Network, error)
}
