// SPDX-License-Identifier: Apache-2.0

package bundleruntime

import (
	"context"
	"net/netip"

	"botbottle.dev/bottle-operator/internal/host"
)

// Networks implements host.Networks for the Bottles of both runtimes.
type Networks struct {
	adapters[host.Networks]
	places *Places
}

var _ host.Networks = (*Networks)(nil)

// NewNetworks returns the router. places may be nil if the node has no Pods.
func NewNetworks(set *Set, docker, pod host.Networks, places *Places) *Networks {
	return &Networks{adapters[host.Networks]{set, docker, pod}, places}
}

// InspectNetwork implements host.Networks. It is the first thing that a pass does with a
// Bottle's network, so it also finds out where the Bottle's Pod is now.
func (n *Networks) InspectNetwork(ctx context.Context, owner host.Owner) (host.Network, error) {
	if kind, err := n.set.Choices.Of(owner.UID); err == nil && kind == Pod && n.places != nil {
		if err := n.places.Refresh(ctx, owner); err != nil {
			return host.Network{}, err
		}
	}
	return inspect(&n.adapters, owner, func(a host.Networks) (host.Network, error) { return a.InspectNetwork(ctx, owner) })
}

// OccupiedPrefixes implements host.Networks.
func (n *Networks) OccupiedPrefixes(ctx context.Context, owner host.Owner) ([]netip.Prefix, error) {
	return call(&n.adapters, owner, func(a host.Networks) ([]netip.Prefix, error) { return a.OccupiedPrefixes(ctx, owner) })
}

// EnsureNetwork implements host.Networks.
func (n *Networks) EnsureNetwork(ctx context.Context, want host.Network) error {
	one, err := n.of(want.Owner)
	if err != nil {
		return err
	}
	return one.EnsureNetwork(ctx, want)
}

// DeleteNetwork implements host.Networks.
func (n *Networks) DeleteNetwork(ctx context.Context, owner host.Owner) error {
	return n.remove(owner, func(a host.Networks) error { return a.DeleteNetwork(ctx, owner) })
}

// ListNetworks implements host.Networks. It does not list networks in Pods, which end with
// their Pods: see Bundles.ListBundles.
func (n *Networks) ListNetworks(ctx context.Context) ([]host.Network, error) {
	if !n.set.Active(Docker) {
		return nil, nil
	}
	return n.docker.ListNetworks(ctx)
}

// PodNetworks are the networks of bundles in Pods. Before it inspects or makes a network, it
// protects the bundle in the Pod. A pass does that first, and gives the bundle its rules and
// credentials later.
type PodNetworks struct {
	host.Networks
	// Protect keeps everybody else from the bundle in the owner's Pod. Its errors are those
	// of wall.PodWalls.ProtectBundle.
	Protect func(ctx context.Context, owner host.Owner) error
}

// InspectNetwork implements host.Networks. The bundle runs even without a network, for
// example while its Bottle is stopped.
func (n PodNetworks) InspectNetwork(ctx context.Context, owner host.Owner) (host.Network, error) {
	if err := n.Protect(ctx, owner); err != nil {
		return host.Network{}, err
	}
	return n.Networks.InspectNetwork(ctx, owner)
}

// EnsureNetwork implements host.Networks.
func (n PodNetworks) EnsureNetwork(ctx context.Context, want host.Network) error {
	if err := n.Protect(ctx, want.Owner); err != nil {
		return err
	}
	return n.Networks.EnsureNetwork(ctx, want)
}
