// SPDX-License-Identifier: Apache-2.0

// Package imageuse finds out which images the node's Bottles and machines use,
// so that these are not collected.
package imageuse

import (
	"context"
	"fmt"

	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

// Users are the sources that show which images are in use.
type Users struct {
	// Bottles reads this node's Bottles.
	Bottles client.Reader
	// State holds the records of machines.
	State *state.Dir
	// Machines lists the machines.
	Machines interface {
		ListMachines(ctx context.Context) ([]host.Machine, error)
	}
}

// Used returns the digests of the images of all Bottles of the node, and the
// archives of all machines, whoever owns them. An error means that it is not
// known what is in use.
func (u *Users) Used(ctx context.Context) (digests, archives map[string]bool, err error) {
	digests, archives = map[string]bool{}, map[string]bool{}
	list := &v1alpha1.BottleList{}
	if err := u.Bottles.List(ctx, list); err != nil {
		return nil, nil, fmt.Errorf("images in use: %w", err)
	}
	for _, b := range list.Items {
		if b.Status.Image != nil {
			digests[ptr.Deref(b.Status.Image.Digest, "")] = true
		}
	}
	owners, err := u.State.Owners()
	if err != nil {
		return nil, nil, fmt.Errorf("images in use: %w", err)
	}
	for _, o := range owners {
		folder, err := u.State.Folder(o.UID)
		if err != nil {
			return nil, nil, err
		}
		rec, err := folder.Record()
		if err != nil {
			return nil, nil, fmt.Errorf("images in use: %w", err)
		}
		if rec != nil {
			digests[rec.Digest] = true
		}
	}
	machines, err := u.Machines.ListMachines(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("images in use: %w", err)
	}
	for _, m := range machines {
		if m.Image != "" {
			archives[m.Image] = true
		}
	}
	log.FromContext(ctx).V(1).Info("Images in use", "digests", len(digests), "archives", len(archives))
	return digests, archives, nil
}
