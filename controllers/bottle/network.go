// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/subnet"
)

// picks bounds how many subnets are tried in one pass: docker may know of
// takers that the node's own tables do not show.
const picks = 16

// networkStep allocates the Bottle's subnet and makes its docker network.
type networkStep struct {
	networks host.Networks
	pool     *subnet.Pool
	causes   causes
}

// ensure keeps the subnet that the docker network has, or that the
// status records while it is still free; else it picks one.
func (n *networkStep) ensure(ctx context.Context, s *scope) error {
	say := n.causes.docker(ctx, v1alpha1.ReasonNetworkConflict)
	found, err := n.networks.InspectNetwork(ctx, s.owner)
	switch {
	case errors.Is(err, host.ErrNotFound):
		found.Subnet = recorded(s.bottle)
		if err := n.create(ctx, s, found.Subnet); err != nil {
			return mapped(err, say)
		}
	case err != nil:
		return mapped(err, say)
	default:
		triple, err := subnet.TripleOf(found.Subnet)
		if err != nil {
			return fmt.Errorf("network of bottle %s: %w", s.key(), err)
		}
		s.triple = triple
		if found.Gateway != triple.Gateway {
			found.Owner, found.Gateway = s.owner, triple.Gateway
			if err := n.networks.EnsureNetwork(ctx, found); err != nil {
				return mapped(err, say)
			}
		}
	}
	s.status.Network = &v1alpha1.NetworkStatus{
		Subnet:   s.triple.Subnet.String(),
		Gateway:  s.triple.Gateway.String(),
		BundleIP: s.triple.BundleIP.String(),
	}
	return nil
}

// create makes the network on the kept subnet, or on the next free one.
func (n *networkStep) create(ctx context.Context, s *scope, kept netip.Prefix) error {
	occupied, err := n.networks.OccupiedPrefixes(ctx, s.owner)
	if err != nil {
		return err
	}
	for range picks {
		triple, err := n.pick(s, kept, occupied)
		if err != nil {
			return err
		}
		err = n.networks.EnsureNetwork(ctx, host.Network{Owner: s.owner, Subnet: triple.Subnet, Gateway: triple.Gateway})
		if errors.Is(err, host.ErrOverlap) {
			occupied = append(occupied, triple.Subnet)
			continue
		}
		s.triple = triple
		return err
	}
	return fmt.Errorf("network of bottle %s: docker refused %d subnets in a row as taken", s.key(), picks)
}

func (n *networkStep) pick(s *scope, kept netip.Prefix, occupied []netip.Prefix) (subnet.Triple, error) {
	if kept.IsValid() && free(kept, occupied) {
		if triple, err := subnet.TripleOf(kept); err == nil {
			return triple, nil
		}
	}
	triple, err := n.pool.Pick(s.owner.Slug, occupied)
	if errors.Is(err, subnet.ErrExhausted) {
		return triple, &flow.Waiting{Reason: v1alpha1.ReasonSubnetsExhausted, Message: err.Error(), After: forSomebody}
	}
	return triple, err
}

func free(p netip.Prefix, occupied []netip.Prefix) bool {
	for _, o := range occupied {
		if o.Overlaps(p) {
			return false
		}
	}
	return true
}

// recorded is the subnet that the status records; invalid when there is none.
func recorded(b *v1alpha1.Bottle) netip.Prefix {
	if b.Status.Network == nil {
		return netip.Prefix{}
	}
	p, err := netip.ParsePrefix(b.Status.Network.Subnet)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// delete removes the network and looks that it is gone.
func (n *networkStep) delete(ctx context.Context, s *scope) error {
	say := n.causes.docker(ctx, "")
	if err := n.networks.DeleteNetwork(ctx, s.owner); err != nil {
		return mapped(err, say)
	}
	_, err := n.networks.InspectNetwork(ctx, s.owner)
	return gone(err, say, "the bundle's network")
}
