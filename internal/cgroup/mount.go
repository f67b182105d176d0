// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNoHierarchy means that no cgroup2 file system is mounted.
var ErrNoHierarchy = errors.New("no cgroup2 file system is mounted: mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1")

// Support is what a node's kernel and hierarchy can do.
type Support struct {
	// Kernel is the kernel's release.
	Kernel string
	// Kill reports whether the kernel can kill a whole cgroup with one write. It
	// is also false while there is no cgroup in which to check this.
	Kill bool
	// Missing lists the controllers that limits need and the unified hierarchy
	// lacks, sorted. In the hybrid layout, version 1 has them.
	Missing []string
}

// Inspect returns what the node can do. It changes nothing. If no cgroup2 file
// system is mounted, the error is ErrNoHierarchy and Support holds only the
// kernel's release.
func Inspect() (Support, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return Support{}, fmt.Errorf("read the kernel's release: %w", err)
	}
	s := Support{Kernel: unix.ByteSliceToString(name.Release[:])}
	h, err := findHierarchy()
	if err != nil {
		return s, err
	}
	err = h.inspect(&s)
	return s, err
}

func (h hierarchy) inspect(s *Support) error {
	available, err := words(filepath.Join(h.mount, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("controllers of cgroup2: %w", err)
	}
	for _, c := range controllers {
		if !slices.Contains(available, c) {
			s.Missing = append(s.Missing, c)
		}
	}
	slices.Sort(s.Missing)
	children, err := os.ReadDir(h.mount)
	if err != nil {
		return fmt.Errorf("cgroup2: %w", err)
	}
	s.Kill = slices.ContainsFunc(children, func(e fs.DirEntry) bool {
		_, err := os.Lstat(filepath.Join(h.mount, e.Name(), "cgroup.kill"))
		return e.IsDir() && err == nil
	})
	return nil
}

// hierarchy is a mount of the unified hierarchy.
type hierarchy struct {
	// mount is the mount point.
	mount string
	// root is the cgroup that is mounted there, as /proc/PID/cgroup spells it.
	root string
}

// Mounted returns the mount point of the unified hierarchy. The error is
// ErrNoHierarchy if it is not mounted.
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

// parseMounts picks a cgroup2 mount from /proc/self/mountinfo. It prefers the
// mount that shows the largest part of the hierarchy, and among equal ones the
// mount at a usual path.
func parseMounts(mountinfo string) (best hierarchy, found bool) {
	for line := range strings.Lines(mountinfo) {
		fields, after, ok := strings.Cut(line, " - ")
		f, kind := strings.Fields(fields), strings.Fields(after)
		if !ok || len(f) < 6 || len(kind) < 1 || kind[0] != "cgroup2" {
			continue
		}
		h := hierarchy{mount: unescape(f[4]), root: unescape(f[3])}
		if !found || len(h.root) < len(best.root) || len(h.root) == len(best.root) && atUsualPath(h) && !atUsualPath(best) {
			best, found = h, true
		}
	}
	return best, found
}

func atUsualPath(h hierarchy) bool {
	return h.mount == "/sys/fs/cgroup" || h.mount == "/sys/fs/cgroup/unified"
}

// unescape decodes the octal escapes in mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace
