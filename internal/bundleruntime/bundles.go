// SPDX-License-Identifier: Apache-2.0

package bundleruntime

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// Bundles implements host.Bundles for the Bottles of both runtimes.
type Bundles struct {
	adapters[host.Bundles]
	lost func(Kind, error)
}

var _ host.Bundles = (*Bundles)(nil)

// NewBundles returns the router. It calls lost when the watch of a runtime ended and is
// started again.
func NewBundles(set *Set, docker, pod host.Bundles, lost func(Kind, error)) *Bundles {
	return &Bundles{adapters[host.Bundles]{set, docker, pod}, lost}
}

// InspectBundle implements host.Bundles. If no runtime was chosen, it does not look for a
// Pod: the Pod of a Bottle that is being deleted stays until the agent has forgotten the
// Bottle and removed its finalizer.
func (b *Bundles) InspectBundle(ctx context.Context, owner host.Owner) (host.Bundle, error) {
	one, err := b.of(owner)
	if errors.Is(err, host.ErrNotFound) && b.set.Active(Docker) {
		one, err = b.docker, nil
	}
	if err != nil {
		return host.Bundle{}, err
	}
	return one.InspectBundle(ctx, owner)
}

// EnsureBundle implements host.Bundles.
func (b *Bundles) EnsureBundle(ctx context.Context, spec host.BundleSpec) (host.Bundle, error) {
	return call(&b.adapters, spec.Owner, func(a host.Bundles) (host.Bundle, error) { return a.EnsureBundle(ctx, spec) })
}

// StopBundle implements host.Bundles.
func (b *Bundles) StopBundle(ctx context.Context, owner host.Owner) error {
	return b.remove(owner, func(a host.Bundles) error { return a.StopBundle(ctx, owner) })
}

// DeleteBundle implements host.Bundles.
func (b *Bundles) DeleteBundle(ctx context.Context, owner host.Owner) error {
	return b.remove(owner, func(a host.Bundles) error { return a.DeleteBundle(ctx, owner) })
}

// ListBundles implements host.Bundles. It does not list containers of Pods. The manager
// makes and deletes Pods, and a Pod without a Bottle on this node may belong to a Bottle that
// is about to come to the node. All that the agent itself makes for a Bottle with a Pod is in
// the Bottle's folder, or is a wall.
func (b *Bundles) ListBundles(ctx context.Context) ([]host.Bundle, error) {
	if !b.set.Active(Docker) {
		return nil, nil
	}
	return b.docker.ListBundles(ctx)
}

// UnansweredPorts implements host.Bundles.
func (b *Bundles) UnansweredPorts(ctx context.Context, owner host.Owner, ip netip.Addr, ports []int32) ([]int32, error) {
	return call(&b.adapters, owner, func(a host.Bundles) ([]int32, error) { return a.UnansweredPorts(ctx, owner, ip, ports) })
}

// WatchBundles implements host.Bundles.
func (b *Bundles) WatchBundles(ctx context.Context, changed func(uid string)) error {
	lost := func(kind Kind, err error) {
		b.lost(kind, err)
		changed("")
	}
	return watchBoth(ctx, &b.adapters, lost, func(ctx context.Context, a host.Bundles) error { return a.WatchBundles(ctx, changed) })
}

// FollowDecisions implements host.Bundles.
func (b *Bundles) FollowDecisions(ctx context.Context, owner host.Owner, since time.Time, decided func(host.Decision)) error {
	one, err := b.of(owner)
	if err != nil {
		return err
	}
	return one.FollowDecisions(ctx, owner, since, decided)
}

// ReadLog implements host.Bundles.
func (b *Bundles) ReadLog(ctx context.Context, owner host.Owner, req host.BundleLogRequest, line func(host.BundleLogLine) error) error {
	one, err := b.of(owner)
	if err != nil {
		return err
	}
	return one.ReadLog(ctx, owner, req, line)
}

// ReadFile implements host.Bundles.
func (b *Bundles) ReadFile(ctx context.Context, owner host.Owner, path string, limit int64) ([]byte, error) {
	return call(&b.adapters, owner, func(a host.Bundles) ([]byte, error) { return a.ReadFile(ctx, owner, path, limit) })
}

// Folders implements host.Bundles.
func (b *Bundles) Folders(ctx context.Context, owner host.Owner) (rules, secrets string, err error) {
	one, err := b.of(owner)
	if err != nil {
		return "", "", err
	}
	return one.Folders(ctx, owner)
}
