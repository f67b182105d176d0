// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxMembership is the most bytes that are read from /proc/PID/cgroup.
const maxMembership = 64 << 10

// ErrElsewhere means that a process is in no cgroup below the mount of the unified
// hierarchy.
var ErrElsewhere = errors.New("the process is outside the mounted part of the unified hierarchy")

// PathOf returns the path of a process's cgroup below the mount of the unified hierarchy;
// "" is the mount itself. The error is fs.ErrNotExist or unix.ESRCH if there is no such
// process.
func PathOf(pid int) (string, error) {
	h, err := findHierarchy()
	if err != nil {
		return "", err
	}
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxMembership))
	if err != nil {
		return "", err
	}
	path, ok := h.below(string(b))
	if !ok {
		return "", fmt.Errorf("cgroup of process %d: %w", pid, ErrElsewhere)
	}
	return path, nil
}

// below finds the path of a cgroup below the mount in the text of /proc/PID/cgroup.
func (h hierarchy) below(text string) (string, bool) {
	for line := range strings.Lines(text) {
		path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::")
		if !ok {
			continue
		}
		path = strings.TrimSuffix(path, " (deleted)")
		rel, err := filepath.Rel(h.root, path)
		switch {
		// The kernel writes /.. for what is above the root of this cgroup namespace.
		case err != nil, path != filepath.Clean(path), rel == "..", strings.HasPrefix(rel, "../"):
			return "", false
		case rel == ".":
			return "", true
		}
		return rel, true
	}
	return "", false
}
