// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

// walls makes, narrows and deletes walls.
type walls struct {
	Options
	watched *registry
	leaks   *leaks
	guard   *guard
	copies  *copies

	limiting sync.Mutex // held while limits are written
}

// ensure implements Enforcement.EnsureWall.
func (w *walls) ensure(ctx context.Context, spec host.WallSpec, request Request) (host.Wall, error) {
	started := w.Clock.Now()
	defer func() { w.Metrics.raised(w.Clock.Since(started)) }()
	m, folder, err := w.watched.ensure(spec.Owner.UID)
	if err != nil {
		return host.Wall{}, err
	}
	m.lock.Lock()
	defer m.lock.Unlock()
	if err := w.watched.checkGeneration(m, request.Generation); err != nil {
		return host.Wall{}, err
	}
	if w.watched.specOf(m).Owner.UID != "" {
		// Inspect before repairing: the machine behind an open wall must be
		// killed before the wall is repaired.
		m.acting.Lock()
		faults, err := w.guard.inspect(ctx, m)
		m.acting.Unlock()
		w.guard.reportFaults(m, faults, err)
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

// setSpec records the wall's new spec before the wall is changed. An agent that
// dies in between leaves the new spec and the digest of the old filter to the
// next agent. The caller holds m.lock.
func (w *walls) setSpec(m *machine, folder state.Folder, spec host.WallSpec, request Request) error {
	w.watched.mu.Lock()
	desired := m.wall
	w.watched.mu.Unlock()
	desired.Spec, desired.BundleImage, desired.Generation = spec, &request.BundleImage, request.Generation
	if err := folder.WriteWall(desired); err != nil {
		return err
	}
	w.watched.mu.Lock()
	defer w.watched.mu.Unlock()
	if err := m.checkGeneration(request.Generation); err != nil {
		m.unsaved = true
		return err // narrowed while the file was written
	}
	m.wall.Spec, m.wall.BundleImage, m.wall.Generation = desired.Spec, desired.BundleImage, desired.Generation
	m.newest = request.Generation
	w.watched.index(spec)
	return nil
}

// raise makes or repairs the wall as specified, and records the digest of its
// filter. The caller holds m.lock.
func (w *walls) raise(ctx context.Context, m *machine, folder state.Folder) (host.Wall, error) {
	m.acting.Lock()
	wall, err := w.repair(ctx, m)
	m.acting.Unlock()
	if err != nil {
		return wall, err
	}
	return wall, w.watched.save(m, folder)
}

// repair makes or repairs the wall as specified. The caller holds m.acting.
func (w *walls) repair(ctx context.Context, m *machine) (host.Wall, error) {
	spec := w.watched.specOf(m)
	wall, err := w.Walls.EnsureWall(ctx, spec)
	if err != nil {
		return wall, err
	}
	w.watched.mu.Lock()
	defer w.watched.mu.Unlock()
	m.record(wall)
	if len(wall.Faults) > 0 {
		return wall, fmt.Errorf("wall %s: %s: %w", spec.Owner.ID(), describe(wall.Faults), host.ErrUnavailable)
	}
	if m.wall.Filter != wall.Filter {
		m.wall.Filter, m.unsaved = wall.Filter, true
	}
	return wall, nil
}

// release implements the wall's part of Enforcement.Release.
func (w *walls) release(ctx context.Context, owner host.Owner) error {
	m, folder, err := w.watched.ensure(owner.UID)
	if err != nil {
		return err
	}
	m.lock.Lock()
	defer m.lock.Unlock()
	m.acting.Lock()
	w.watched.setGone(m, true) // or else the guard would make it again
	err = w.Walls.DeleteWall(ctx, owner)
	m.acting.Unlock()
	if err == nil {
		err = folder.RemoveWall()
	}
	if err != nil {
		w.watched.setGone(m, false)
		return err
	}
	w.watched.remove(owner)
	return nil
}

// gateway returns the node's own address in a wall's subnet.
func gateway(spec host.WallSpec) netip.Addr { return spec.Subnet.Masked().Addr().Next() }
