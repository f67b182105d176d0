// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Remove removes the machine's cgroups. It returns nil if it has none. The error is
// unix.EBUSY if one of them contains a living process.
func (g *Groups) Remove(id string) error {
	dir, err := g.Path(id)
	if err != nil {
		return err
	}
	if err := g.rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove cgroup %s: %w", id, err)
	}
	return g.RemoveFromPods(id)
}

// RemoveFromPods removes the cgroups that the machine has in Pods. kubelet would remove
// them with the Pod.
func (g *Groups) RemoveFromPods(id string) error {
	if _, err := g.places(id); err != nil {
		return err
	}
	g.mu.Lock() // EnsureInPod must not create one between its removal and its removal from the map
	defer g.mu.Unlock()
	left := g.pods[id][:0]
	var errs []error
	for _, pod := range g.pods[id] {
		if err := g.rmdir(filepath.Join(g.mount, pod, id)); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove cgroup %s in %s: %w", id, pod, err))
			left = append(left, pod)
		}
	}
	if g.pods[id] = left; len(left) == 0 {
		delete(g.pods, id)
	}
	return errors.Join(errs...)
}

// List returns the ids of all machines that have a cgroup, sorted.
func (g *Groups) List() ([]string, error) {
	names, err := folders(filepath.Join(g.mount, g.parent)) // none before the first machine starts
	if err == nil {
		err = g.findInPods()
	}
	if err != nil {
		return nil, fmt.Errorf("list the machines' cgroups: %w", err)
	}
	ids := slices.DeleteFunc(names, func(name string) bool { return !ValidID(name) })
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, pods := range g.pods {
		// A Pod that has gone took the machine's cgroup along.
		if slices.ContainsFunc(pods, func(pod string) bool { return g.hasMark(filepath.Join(g.mount, pod, id), g.parent) }) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// RemoveParent removes the machines' cgroups, which must be empty, and their parent, but
// no Pod's cgroup. The
// error is unix.EBUSY if one of them contains a living process or another cgroup. It
// returns nil if the parent does not exist.
func (g *Groups) RemoveParent() error {
	ids, err := g.List()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := g.Remove(id); err != nil {
			return err
		}
	}
	if err := g.rmdir(filepath.Join(g.mount, g.parent)); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove cgroup %s: %w", g.parent, err)
	}
	return nil
}

// Exists reports whether the machines' cgroups have a parent.
func (g *Groups) Exists() bool {
	_, err := os.Lstat(filepath.Join(g.mount, g.parent))
	return err == nil
}
