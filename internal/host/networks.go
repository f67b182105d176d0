// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"net/netip"
)

// Network is the network of one Bottle's bundle: a docker bridge network, or a bridge in the
// network namespace of the Bottle's Pod.
type Network struct {
	Owner   Owner
	Subnet  netip.Prefix
	Gateway netip.Addr
}

// Networks manages the networks of this node's Bottles. All methods may be called again at
// any time. ErrUnavailable means that dockerd or the container runtime does not answer. In
// Pods, ErrNotFound also means that the Pod does not run.
type Networks interface {
	// InspectNetwork returns the owner's network. It returns ErrNotFound when
	// there is none, and ErrConflict when a network with its name belongs to
	// someone else. A network in a Pod that is not as EnsureNetwork makes it has no
	// Gateway.
	InspectNetwork(ctx context.Context, owner Owner) (Network, error)
	// OccupiedPrefixes returns the prefixes that a new subnet must not overlap:
	// the subnets of every docker network but the owner's own, and the addresses
	// and routes of the node, except its default routes and those of the owner's
	// own bridge. In Pods, only the addresses of the owner's Pod and of its gateways
	// count.
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
