// SPDX-License-Identifier: Apache-2.0

// Package inventory finds the owners of what is on a node: of networks, bundles, walls and
// folders. It removes nothing, and does not know which owners still exist.
package inventory

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"botbottle.dev/bottle-operator/internal/host"
)

// Sources list what is on the node. All fields are required.
type Sources struct {
	Networks interface {
		ListNetworks(ctx context.Context) ([]host.Network, error)
	}
	Bundles interface {
		ListBundles(ctx context.Context) ([]host.Bundle, error)
	}
	Walls interface {
		ListWalls(ctx context.Context) ([]host.WallOwner, error)
	}
	// Folders are the folders in the state directory. They record the machines.
	Folders interface {
		Owners() ([]host.Owner, error)
	}
}

// Owners returns the owners of everything that belongs to this cluster and node, by UID. If
// here has no node, it returns those of all nodes. Docker's objects have labels, walls have
// marks, and machines are recorded in folders. If only the wall of a Bottle is left, its
// owner has neither name nor namespace.
func (i Sources) Owners(ctx context.Context, here host.Owner) (map[string]host.Owner, error) {
	out := map[string]host.Owner{}
	add := func(o host.Owner) {
		if at := (host.Owner{Cluster: here.Cluster, Node: cmp.Or(here.Node, o.Node)}); at.Local(o) {
			out[o.UID] = o
		}
	}
	networks, err := i.Networks.ListNetworks(ctx)
	if err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	for _, n := range networks {
		add(n.Owner)
	}
	bundles, err := i.Bundles.ListBundles(ctx)
	if err != nil {
		return nil, fmt.Errorf("list bundles: %w", err)
	}
	for _, b := range bundles {
		add(b.Owner)
	}
	walls, err := i.Walls.ListWalls(ctx)
	if err != nil {
		return nil, fmt.Errorf("list walls: %w", err)
	}
	for _, w := range walls {
		// A mark has no room for names. All other objects of a Bottle have them.
		o := host.Owner{UID: w.UID, Cluster: w.Cluster, Node: here.Node}
		if o.Slug = strings.TrimSuffix(strings.TrimPrefix(w.ID, "bottle-"), "-"+o.UID8()); out[o.UID].UID == "" && o.ID() == w.ID {
			add(o)
		}
	}
	folders, err := i.Folders.Owners()
	if err != nil {
		return nil, fmt.Errorf("list folders: %w", err)
	}
	for _, o := range folders {
		add(o)
	}
	return out, nil
}
