// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/agentstatus"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/outcome"
	"botbottle.dev/bottle-operator/internal/subnet"
)

// maxPicks bounds how many subnets are tried in one pass: docker may refuse
// subnets that are free according to the node's own tables.
const maxPicks = 16

// Surroundings is implemented by *surroundings.Source.
type Surroundings interface {
	Reserved() []subnet.Reserved
	Inspect(owner host.Owner, p netip.Prefix) (hidden, routed string)
	Forget(owner host.Owner)
	Subscribe(changed func(uid string))
}

// networkStep allocates the Bottle's subnet and creates its docker network.
type networkStep struct {
	networks     host.Networks
	surroundings Surroundings
	pool         *subnet.Pool
	causes       outcome.Causes
}

// ensure keeps the subnet of the docker network if that exists, or the subnet
// recorded in the status if that is still free. Otherwise it picks one.
func (n *networkStep) ensure(ctx context.Context, s *scope) error {
	reasons := n.causes.Docker(ctx, v1alpha1.ReasonNetworkConflict)
	found, err := n.networks.InspectNetwork(ctx, s.owner)
	switch {
	case errors.Is(err, host.ErrNotFound):
		found.Subnet = agentstatus.RecordedSubnet(s.bottle)
		if err := n.create(ctx, s, found.Subnet); err != nil {
			return outcome.Map(err, reasons)
		}
	case err != nil:
		return outcome.Map(err, reasons)
	default:
		triple, err := subnet.TripleOf(found.Subnet)
		if err != nil {
			return fmt.Errorf("network of bottle %s: %w", s.key(), err)
		}
		s.triple = triple
		if found.Gateway != triple.Gateway {
			found.Owner, found.Gateway = s.owner, triple.Gateway
			if err := n.networks.EnsureNetwork(ctx, found); err != nil {
				return outcome.Map(err, reasons)
			}
		}
	}
	s.status.Network = &v1alpha1.NetworkStatus{
		Subnet:   s.triple.Subnet.String(),
		Gateway:  s.triple.Gateway.String(),
		BundleIP: s.triple.BundleIP.String(),
	}
	hidden, routed := n.surroundings.Inspect(s.owner, s.triple.Subnet)
	if routed != "" {
		return &flow.Waiting{Reason: v1alpha1.ReasonRouteConflict, Message: routed, After: externalDelay}
	}
	s.hidden = hidden
	return nil
}

// create creates the network on the kept subnet, or on the next free one.
func (n *networkStep) create(ctx context.Context, s *scope, kept netip.Prefix) error {
	occupied, err := n.networks.OccupiedPrefixes(ctx, s.owner)
	if err != nil {
		return err
	}
	for range maxPicks {
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
	return fmt.Errorf("network of bottle %s: docker refused %d subnets in a row because they were taken", s.key(), maxPicks)
}

func (n *networkStep) pick(s *scope, kept netip.Prefix, occupied []netip.Prefix) (subnet.Triple, error) {
	reserved := n.surroundings.Reserved()
	if s.record == nil && subnet.Hidden(kept, reserved) != "" {
		kept = netip.Prefix{} // a machine would keep the addresses that it was created with
	}
	if triple, ok := subnet.Keep(kept, occupied); ok {
		return triple, nil
	}
	triple, err := n.pool.Pick(s.owner.Slug, occupied, reserved)
	if errors.Is(err, subnet.ErrExhausted) {
		return triple, &flow.Waiting{Reason: v1alpha1.ReasonSubnetsExhausted, Message: err.Error(), After: externalDelay}
	}
	return triple, err
}

// delete removes the network and checks that it is gone.
func (n *networkStep) delete(ctx context.Context, s *scope) error {
	n.surroundings.Forget(s.owner)
	reasons := n.causes.Docker(ctx, "")
	if err := n.networks.DeleteNetwork(ctx, s.owner); err != nil {
		return outcome.Map(err, reasons)
	}
	_, err := n.networks.InspectNetwork(ctx, s.owner)
	return outcome.RequireGone(err, reasons, "the bundle's network")
}
