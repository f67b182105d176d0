// SPDX-License-Identifier: Apache-2.0

package sweep

import (
	"context"
	"fmt"
	"strings"

	"botbottle.dev/bottle-operator/internal/host"
)

// Inventory lists what is on the node. All fields are required.
type Inventory struct {
	Networks interface {
		ListNetworks(ctx context.Context) ([]host.Network, error)
	}
	Bundles interface {
		ListBundles(ctx context.Context) ([]host.Bundle, error)
	}
	Walls interface {
		ListWalls(ctx context.Context) ([]host.WallOwner, error)
	}
	// Folders are those of the state directory. They record the machines.
	Folders interface {
		Owners() ([]host.Owner, error)
	}
}

// owners returns the owners of everything of this cluster and node, by UID: of
// docker's objects by their labels, of walls by their marks, of machines by
// the folder that records them. Of a Bottle of which only the wall is left,
// neither name nor namespace is known.
func (i Inventory) owners(ctx context.Context, here host.Owner) (map[string]host.Owner, error) {
	out := map[string]host.Owner{}
	add := func(o host.Owner) {
		if here.Local(o) {
			out[o.UID] = o
		}
	}
	networks, err := i.Networks.ListNetworks(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for orphans: %w", err)
	}
	for _, n := range networks {
		add(n.Owner)
	}
	bundles, err := i.Bundles.ListBundles(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for orphans: %w", err)
	}
	for _, b := range bundles {
		add(b.Owner)
	}
	walls, err := i.Walls.ListWalls(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for orphans: %w", err)
	}
	for _, w := range walls {
		// A mark has no room for names. Anything else of the Bottle has them.
		o := host.Owner{UID: w.UID, Cluster: w.Cluster, Node: here.Node}
		if o.Slug = strings.TrimSuffix(strings.TrimPrefix(w.ID, "bottle-"), "-"+o.UID8()); out[o.UID].UID == "" && o.ID() == w.ID {
			add(o)
		}
	}
	folders, err := i.Folders.Owners()
	if err != nil {
		return nil, fmt.Errorf("look for orphans: %w", err)
	}
	for _, o := range folders {
		add(o)
	}
	return out, nil
}
