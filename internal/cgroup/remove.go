// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// List returns the ids of all machines that have a cgroup.
func (g *Groups) List() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(g.mount, g.parent))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // no machine was started since the node booted
	}
	if err != nil {
		return nil, fmt.Errorf("list the machines' cgroups: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && ValidID(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// RemoveParent removes the machines' cgroups, which must be empty, and their parent. The
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
