// SPDX-License-Identifier: Apache-2.0

// Package subnetchoice makes the network of a Bottle that has none, on a subnet that is free
// on the node. Which subnets there are, and in which order they are tried, is up to
// internal/subnet.
package subnetchoice

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/subnet"
)

const (
	// maxPicks bounds how many subnets are tried in one pass: docker may refuse subnets
	// that are free according to the node's own tables.
	maxPicks = 16
	// retry is the pause before subnets are looked for again.
	retry = 30 * time.Second
)

// Chooser makes networks.
type Chooser struct {
	Networks host.Networks
	Pool     *subnet.Pool
}

// Request says for whom a network is made.
type Request struct {
	Owner host.Owner
	// Kept is a subnet to use if it is free; zero for none.
	Kept netip.Prefix
	// Reserved are networks that are in use elsewhere. A new choice overlaps none of them.
	// If no machine was made for Kept yet (Movable), Kept must not overlap them, either.
	Reserved []subnet.Reserved
	Movable  bool
	// InPod is true if the network will exist only inside the bundle's Pod.
	InPod bool
}

// Create creates the network on the kept subnet, or on the next free one. Its errors are
// those of host.Networks, or outcomes of a step.
func (c Chooser) Create(ctx context.Context, r Request) (subnet.Triple, error) {
	occupied, err := c.Networks.OccupiedPrefixes(ctx, r.Owner)
	if err != nil {
		return subnet.Triple{}, err
	}
	for range maxPicks {
		triple, err := c.pick(r, occupied)
		if err != nil {
			return subnet.Triple{}, err
		}
		err = c.Networks.EnsureNetwork(ctx, host.Network{Owner: r.Owner, Subnet: triple.Subnet, Gateway: triple.Gateway})
		if errors.Is(err, host.ErrOverlap) {
			occupied = append(occupied, triple.Subnet)
			continue
		}
		return triple, err
	}
	return subnet.Triple{}, fmt.Errorf("network of %s: %d subnets in a row were refused because they were taken", r.Owner.ID(), maxPicks)
}

func (c Chooser) pick(r Request, occupied []netip.Prefix) (subnet.Triple, error) {
	if r.Movable && subnet.Hidden(r.Kept, r.Reserved) != "" {
		r.Kept = netip.Prefix{} // a machine would keep the addresses that it was created with
	}
	keep := subnet.Keep
	if r.InPod && !r.Movable {
		keep = subnet.KeepInPod
	}
	if triple, ok := keep(r.Kept, occupied); ok {
		return triple, nil
	}
	triple, err := c.Pool.Pick(r.Owner.Slug, occupied, r.Reserved)
	if errors.Is(err, subnet.ErrExhausted) {
		return triple, &flow.Waiting{Reason: v1alpha1.ReasonSubnetsExhausted, Message: err.Error(), After: retry}
	}
	return triple, err
}
