// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Running reports whether any machine below the parent has a living process, except one:
// "" excepts none.
func Running(parent, except string) (bool, error) {
	g, err := Open(parent)
	if err != nil {
		return false, err
	}
	return g.Running(except)
}

// Running reports whether any machine but one has a living process; "" excepts none.
func (g *Groups) Running(except string) (bool, error) {
	entries, err := os.ReadDir(filepath.Join(g.mount, g.parent))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // no machine was started since the node booted
	}
	if err != nil {
		return false, fmt.Errorf("list the machines' cgroups: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() || !ValidID(e.Name()) || e.Name() == except {
			continue
		}
		if populated, err := g.Populated(e.Name()); err != nil || populated {
			return populated, err
		}
	}
	return false, nil
}
