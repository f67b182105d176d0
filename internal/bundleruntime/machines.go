// SPDX-License-Identifier: Apache-2.0

package bundleruntime

import (
	"context"
	"fmt"

	"botbottle.dev/bottle-operator/internal/host"
)

// Parent returns the cgroup in which the machine with this name is to run: that of its
// Bottle's Pod, or "" for the usual one. It records that Pod first.
func (p *Places) Parent(ctx context.Context, name string) (string, error) {
	owner, err := p.ownerOf(name)
	if err != nil || owner.UID == "" {
		return "", err
	}
	place, err := p.locate(ctx, owner)
	if err == nil && place.Cgroup == "" {
		err = fmt.Errorf("the Pod of %s has no cgroup of the unified hierarchy: %w", name, host.ErrUnavailable)
	}
	if err != nil {
		return "", err
	}
	p.mu.Lock()
	now := p.known[owner.UID]
	now.Started = place.UID
	p.known[owner.UID] = now
	p.mu.Unlock()
	// An agent may die between the start and whoever records its result.
	if err := p.store(owner.UID); err != nil {
		return "", err
	}
	return place.Cgroup, nil
}

// ownerOf returns the owner of the machine with this name if its bundle is in a Pod, or
// else none. A machine may be of no Bottle, such as the trial's.
func (p *Places) ownerOf(name string) (host.Owner, error) {
	owners, err := p.State.Owners()
	if err != nil {
		return host.Owner{}, err
	}
	for _, owner := range owners {
		if owner.Slug == "" || owner.ID() != name {
			continue
		}
		if kind, err := p.Choices.Of(owner.UID); err != nil || kind != Pod {
			return host.Owner{}, err
		}
		return owner, nil
	}
	return host.Owner{}, nil
}

// StartedIn returns the UID of the Pod that Parent last found for the Bottle's machine, even
// if an earlier agent called it; "" if there is none.
func (p *Places) StartedIn(uid string) string { return p.place(uid).Started }

// BundleMemory returns how many bytes of a Pod's memory the machine with this name leaves to
// its bundle; 0 if that is not recorded.
func (p *Places) BundleMemory(name string) int64 {
	owner, err := p.ownerOf(name)
	if err != nil || owner.UID == "" {
		return 0
	}
	folder, err := p.State.Folder(owner.UID)
	if err != nil {
		return 0
	}
	record, err := folder.Record()
	if err != nil || record == nil {
		return 0
	}
	return record.BundleMemory
}
