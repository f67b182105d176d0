// SPDX-License-Identifier: Apache-2.0

package nodecleanup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/inventory"
)

// Removal removes Bottles from a node that leaves the cluster for good. It needs neither an
// API server nor an agent. All fields are required.
type Removal struct {
	Inventory inventory.Sources
	// Cluster is the UID of kube-system of the cluster whose Bottles are removed, whatever
	// the name of the node was.
	Cluster  string
	Machines interface {
		KillMachine(ctx context.Context, name string) error
		DeleteMachine(ctx context.Context, name string) error
	}
	Walls interface {
		DeleteWall(ctx context.Context, owner host.Owner) error
	}
	Bundles interface {
		DeleteBundle(ctx context.Context, owner host.Owner) error
	}
	Networks interface {
		DeleteNetwork(ctx context.Context, owner host.Owner) error
	}
	Exchanges interface {
		RemoveExchange(ctx context.Context, uid string) error
	}
	Vault interface {
		RemoveFolder(ctx context.Context, uid string) error
	}
}

// Owners returns the Bottles that have something on the node, sorted by UID.
func (r Removal) Owners(ctx context.Context) ([]host.Owner, error) {
	found, err := r.Inventory.Owners(ctx, host.Owner{Cluster: r.Cluster})
	if err != nil {
		return nil, err
	}
	owners := make([]host.Owner, 0, len(found))
	for _, uid := range slices.Sorted(maps.Keys(found)) {
		owners = append(owners, found[uid])
	}
	return owners, nil
}

// Remove removes everything of one Bottle but its folder, in the order of a teardown: the
// wall goes only when the machine is down. If smolvm itself is no longer there, the machine
// is killed, and its files stay in smolvm's folder.
func (r Removal) Remove(ctx context.Context, o host.Owner) error {
	err := r.Machines.DeleteMachine(ctx, o.ID())
	if errors.Is(err, host.ErrUnavailable) {
		err = r.Machines.KillMachine(ctx, o.ID())
	}
	for _, remove := range []func() error{
		func() error { return r.Walls.DeleteWall(ctx, o) },
		func() error { return r.Bundles.DeleteBundle(ctx, o) },
		func() error { return r.Networks.DeleteNetwork(ctx, o) },
		func() error { return r.Exchanges.RemoveExchange(ctx, o.UID) },
		func() error { return r.Vault.RemoveFolder(ctx, o.UID) },
	} {
		if err != nil {
			return fmt.Errorf("remove %s of Bottle %s/%s: %w", o.ID(), o.Namespace, o.Name, err)
		}
		err = remove()
	}
	if err != nil {
		return fmt.Errorf("remove %s of Bottle %s/%s: %w", o.ID(), o.Namespace, o.Name, err)
	}
	return nil
}
