// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Running reports whether any machine below the parent has a living process.
func Running(parent string) (bool, error) {
	g, err := Open(parent)
	if err != nil {
		return false, err
	}
	return g.Running()
}

// Running reports whether any machine has a living process.
func (g *Groups) Running() (bool, error) {
	f, err := os.Open(filepath.Join(g.mount, g.parent, "cgroup.events"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // no machine was started since the node booted
	}
	if err != nil {
		return false, fmt.Errorf("inspect cgroup %s: %w", g.parent, err)
	}
	defer f.Close()
	populated, err := readPopulated(f)
	if err != nil {
		return false, fmt.Errorf("inspect cgroup %s: %w", g.parent, err)
	}
	return populated, nil
}
