// SPDX-License-Identifier: Apache-2.0

package bundleruntime

import (
	"context"
	"fmt"

	"botbottle.dev/bottle-operator/internal/host"
)

// Walls implements host.Walls for the Bottles of both runtimes. The guard uses it before
// anything but the state directory is known.
type Walls struct {
	adapters[host.Walls]
	lost func(Kind, error)
}

var _ host.Walls = (*Walls)(nil)

// NewWalls returns the router. It calls lost when the watch of a runtime's walls ended and
// is started again.
func NewWalls(set *Set, docker, pod host.Walls, lost func(Kind, error)) *Walls {
	return &Walls{adapters[host.Walls]{set, docker, pod}, lost}
}

// EnsureWall implements host.Walls.
func (w *Walls) EnsureWall(ctx context.Context, spec host.WallSpec) (host.Wall, error) {
	return call(&w.adapters, spec.Owner, func(a host.Walls) (host.Wall, error) { return a.EnsureWall(ctx, spec) })
}

// InspectWalls implements host.Walls. If the walls of one runtime cannot be read, each of
// them says so, and those of the other are read nevertheless.
func (w *Walls) InspectWalls(ctx context.Context, specs []host.WallSpec) ([]host.Wall, error) {
	out := make([]host.Wall, len(specs))
	at := map[Kind][]int{}
	for i, spec := range specs {
		kind, err := w.set.Choices.Of(spec.Owner.UID)
		if err == nil && kind == "" {
			err = fmt.Errorf("wall %s: the runtime of its bundle is not known", spec.Owner.ID())
		}
		if err != nil {
			out[i].Err = err
			continue
		}
		at[kind] = append(at[kind], i)
	}
	for _, kind := range []Kind{Docker, Pod} {
		some := make([]host.WallSpec, 0, len(at[kind]))
		for _, i := range at[kind] {
			some = append(some, specs[i])
		}
		if len(some) == 0 {
			continue
		}
		walls, err := w.get(kind).InspectWalls(ctx, some)
		if err == nil && len(walls) != len(some) {
			err = fmt.Errorf("runtime %s: got %d walls, want %d", kind, len(walls), len(some))
		}
		if err != nil && len(some) == len(specs) {
			return nil, err
		}
		for n, i := range at[kind] {
			if err != nil {
				out[i].Err = err
			} else {
				out[i] = walls[n]
			}
		}
	}
	return out, nil
}

// WatchWalls implements host.Walls.
func (w *Walls) WatchWalls(ctx context.Context, changed func()) error {
	lost := func(kind Kind, err error) {
		w.lost(kind, err)
		changed()
	}
	return watchBoth(ctx, &w.adapters, lost, func(ctx context.Context, a host.Walls) error { return a.WatchWalls(ctx, changed) })
}

// DeleteWall implements host.Walls.
func (w *Walls) DeleteWall(ctx context.Context, owner host.Owner) error {
	return w.remove(owner, func(a host.Walls) error { return a.DeleteWall(ctx, owner) })
}

// ListWalls implements host.Walls. Both adapters see the machines' namespaces, so a wall
// is listed once.
func (w *Walls) ListWalls(ctx context.Context) ([]host.WallOwner, error) {
	all, err := list(&w.adapters, func(a host.Walls) ([]host.WallOwner, error) { return a.ListWalls(ctx) })
	var out []host.WallOwner
	seen := map[host.WallOwner]bool{}
	for _, o := range all {
		if !seen[o] {
			out, seen[o] = append(out, o), true
		}
	}
	return out, err
}

// Drops implements host.Walls.
func (w *Walls) Drops(ctx context.Context, owner host.Owner) ([]host.Drop, error) {
	return call(&w.adapters, owner, func(a host.Walls) ([]host.Drop, error) { return a.Drops(ctx, owner) })
}

// ForgetDrops implements host.Walls.
func (w *Walls) ForgetDrops(ctx context.Context, owner host.Owner) error {
	one, err := w.of(owner)
	if err != nil {
		return err
	}
	return one.ForgetDrops(ctx, owner)
}
