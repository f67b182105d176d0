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

// Networks manages the docker bridge networks of this node's Bottles. All
// methods may be called again at any time. ErrUnavailable means that dockerd
// does not answer.
type Networks interface {
	// InspectNetwork returns the owner's network. It returns ErrNotFound when
	// there is none, and ErrConflict when a network with its name belongs to
	// someone else.
	InspectNetwork(ctx context.Context, owner Owner) (Network, error)
	// OccupiedPrefixes returns the prefixes that a new subnet must not overlap:
	// the subnets of every docker network but the owner's own, and the addresses
	// and routes of the node, except its default routes and those of the owner's
	// own bridge.
	OccupiedPrefixes(ctx context.Context, owner Owner) ([]netip.Prefix, error)
	// EnsureNetwork makes the network exist, with an MTU not above that of the node's
	// uplinks. If our network differs from n, it is replaced. EnsureNetwork returns ErrConflict when a network with its name
	// belongs to someone else, ErrOverlap when the subnet is taken, and ErrStuck when
	// docker does not remove our network.
	EnsureNetwork(ctx context.Context, n Network) error
	// DeleteNetwork removes the owner's network. It returns nil when the network
	// is absent or belongs to someone else.
	DeleteNetwork(ctx context.Context, owner Owner) error
	// ListNetworks returns the networks that have our labels, of any cluster
	// and node.
	ListNetworks(ctx context.Context) ([]Network, error)
}
