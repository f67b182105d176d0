// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// ErrNoHierarchy means that no cgroup2 file system is mounted.
var ErrNoHierarchy = errors.New("no cgroup2 file system is mounted: mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1")

// hierarchy is where the unified hierarchy is mounted.
type hierarchy struct {
	// mount is the mount point.
	mount string
	// root is the cgroup that is mounted there, as /proc/PID/cgroup spells it.
	root string
}

// Mounted returns the mount point of the unified hierarchy. The error is
// ErrNoHierarchy when there is none.
func Mounted() (string, error) {
	h, err := findHierarchy()
	return h.mount, err
}

func findHierarchy() (hierarchy, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return hierarchy{}, fmt.Errorf("find the cgroup2 file system: %w", err)
	}
	h, ok := parseMounts(string(b))
	if !ok {
		return hierarchy{}, ErrNoHierarchy
	}
	return h, nil
}

// parseMounts picks the cgroup2 mount of /proc/self/mountinfo: the one of
// which the most can be seen, and of several such the one at the usual place.
func parseMounts(mountinfo string) (best hierarchy, found bool) {
	for line := range strings.Lines(mountinfo) {
		fields, after, ok := strings.Cut(line, " - ")
		f, kind := strings.Fields(fields), strings.Fields(after)
		if !ok || len(f) < 6 || len(kind) < 1 || kind[0] != "cgroup2" {
			continue
		}
		h := hierarchy{mount: unescape(f[4]), root: unescape(f[3])}
		if !found || len(h.root) < len(best.root) || len(h.root) == len(best.root) && usual(h) && !usual(best) {
			best, found = h, true
		}
	}
	return best, found
}

func usual(h hierarchy) bool {
	return h.mount == "/sys/fs/cgroup" || h.mount == "/sys/fs/cgroup/unified"
}

// unescape undoes the octal escapes of mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace
