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
	// Kernel is its release.
	Kernel string
	// Kill says that the kernel can kill a whole cgroup at once. It is false,
	// too, as long as there is no cgroup in which to look for that.
	Kill bool
	// Missing are the controllers of limits that the unified hierarchy does not
	// have, sorted: with the hybrid layout, version 1 holds them.
	Missing []string
}

// Inspect returns what the node can do, and changes nothing. The error is
// ErrNoHierarchy, with the kernel's release, when no cgroup2 file system is
// mounted.
func Inspect() (Support, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return Support{}, fmt.Errorf("release of the kernel: %w", err)
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
	have, err := words(filepath.Join(h.mount, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("controllers of cgroup2: %w", err)
	}
	for _, c := range controllers {
		if !slices.Contains(have, c) {
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
