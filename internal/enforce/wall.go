// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

// walls makes, narrows and deletes walls.
type walls struct {
	Options
	watched *registry
	leaks   *leaks
	guard   *guard
}

// ensure implements Enforcement.EnsureWall.
func (w *walls) ensure(ctx context.Context, spec host.WallSpec, request Request) (host.Wall, error) {
	started := w.Clock.Now()
	defer func() { w.Metrics.raised(w.Clock.Since(started)) }()
	m, folder, err := w.watched.ensure(spec.Owner.UID)
	if err != nil {
		return host.Wall{}, err
	}
	m.act.Lock()
	defer m.act.Unlock()
	if err := w.current(m, request.Generation); err != nil {
		return host.Wall{}, err
	}
	if m.wall.Spec.Owner.UID != "" {
		// Before the wall is repaired: whoever repairs an open wall must have
		// killed its machine.
		faults, err := w.guard.inspect(ctx, m)
		w.guard.reportFaulty(m, faults, err)
		if err != nil {
			_, repairErr := w.raise(ctx, m, folder)
			return host.Wall{}, errors.Join(err, repairErr)
		}
	}
	if err := w.leaks.release(m, folder, request); err != nil {
		return host.Wall{}, err
	}
	if err := w.setSpec(m, folder, spec, request); err != nil {
		return host.Wall{}, err
	}
	return w.raise(ctx, m, folder)
}

// setSpec records what the wall is to be, before the wall is made so: an agent
// that dies in between leaves its successor the new spec and the digest of the
// old filter. m.act is held.
func (w *walls) setSpec(m *machine, folder state.Folder, spec host.WallSpec, request Request) error {
	want := m.wall
	want.Spec, want.BundleImage, want.Generation = spec, &request.BundleImage, request.Generation
	if err := folder.WriteWall(want); err != nil {
		return err
	}
	w.watched.mu.Lock()
	defer w.watched.mu.Unlock()
	m.wall, m.newest = want, request.Generation
	w.watched.index(spec)
	return nil
}

// raise makes the wall as recorded, and records the digest of its filter;
// m.act is held.
func (w *walls) raise(ctx context.Context, m *machine, folder state.Folder) (host.Wall, error) {
	spec := m.wall.Spec
	wall, err := w.Walls.EnsureWall(ctx, spec)
	if err != nil {
		return wall, err
	}
	w.watched.mu.Lock()
	m.record(wall)
	record := m.wall
	w.watched.mu.Unlock()
	if len(wall.Faults) > 0 {
		return wall, fmt.Errorf("wall %s: %s: %w", spec.Owner.ID(), words(wall.Faults), host.ErrUnavailable)
	}
	if record.Filter == wall.Filter {
		return wall, nil
	}
	record.Filter = wall.Filter
	if err := folder.WriteWall(record); err != nil {
		return wall, err
	}
	w.watched.mu.Lock()
	defer w.watched.mu.Unlock()
	m.wall.Filter = wall.Filter
	return wall, nil
}

// release implements the wall's part of Enforcement.Release.
func (w *walls) release(ctx context.Context, owner host.Owner) error {
	m, folder, err := w.watched.ensure(owner.UID)
	if err != nil {
		return err
	}
	m.act.Lock()
	defer m.act.Unlock()
	if err := w.Walls.DeleteWall(ctx, owner); err != nil {
		return err
	}
	if err := folder.RemoveWall(); err != nil {
		return err
	}
	w.watched.remove(owner)
	return nil
}

// gateway returns the node's own address in a wall's subnet.
func gateway(spec host.WallSpec) netip.Addr { return spec.Subnet.Masked().Addr().Next() }
