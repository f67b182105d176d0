// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultParent is the parent of the machines' cgroups if only one agent uses
// the hierarchy.
const DefaultParent = "bottle.slice"

var (
	validParent = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127}(/[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127}){0,7}$`)
	validID     = regexp.MustCompile(`^bottle-[A-Za-z0-9][A-Za-z0-9_-]{0,120}$`)
)

// ValidParent reports whether name can be the parent: a relative path of at most
// eight ordinary names.
func ValidParent(name string) bool { return validParent.MatchString(name) }

// ValidID reports whether name can be the name of a machine. Such a name contains
// no slash and no dot, so it cannot be a path.
func ValidID(name string) bool { return validID.MatchString(name) }

// Groups are the machines' cgroups below one parent. An id is the name of a
// machine, `bottle-…`; any other id is an error. The methods are safe for
// concurrent use.
type Groups struct {
	hierarchy
	// parent is the parent's path below the mount.
	parent string
	// patience bounds the wait for a killed cgroup to become empty.
	patience time.Duration
	// made and rmdir let tests imitate what the kernel does.
	made, rmdir func(dir string) error
}

// Open finds the unified hierarchy. It creates nothing. The error is
// ErrNoHierarchy if the hierarchy is not mounted.
func Open(parent string) (*Groups, error) {
	h, err := findHierarchy()
	if err != nil {
		return nil, err
	}
	return open(h, parent)
}

// At is like Open, but uses a folder that only looks like a hierarchy, for tests.
// It calls made with the folder of each new cgroup; made creates the files that
// the kernel would create.
func At(mount, parent string, made func(dir string) error) (*Groups, error) {
	g, err := open(hierarchy{mount, "/"}, parent)
	if err == nil {
		g.made, g.rmdir = made, os.RemoveAll
	}
	return g, err
}

func open(h hierarchy, parent string) (*Groups, error) {
	if !ValidParent(parent) {
		return nil, fmt.Errorf("cgroup parent %q: want a relative path of names such as %s", parent, DefaultParent)
	}
	made := func(string) error { return nil }
	return &Groups{hierarchy: h, parent: parent, patience: 10 * time.Second, made: made, rmdir: unix.Rmdir}, nil
}

// Path returns the folder of a machine's cgroup.
func (g *Groups) Path(id string) (string, error) {
	if !validID.MatchString(id) {
		return "", fmt.Errorf("cgroup %q: not a machine's name", id)
	}
	return filepath.Join(g.mount, g.parent, id), nil
}

// Ensure creates the machine's cgroup if it does not exist, and returns its open
// folder, into which a process can be cloned. The caller closes it.
func (g *Groups) Ensure(id string) (*os.File, error) {
	dir, err := g.Path(id)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.MkdirAll(dir, 0o755), g.made(dir)); err != nil {
		return nil, fmt.Errorf("create cgroup %s: %w", id, err)
	}
	// Nobody must be able to hide processes in cgroups below it.
	if err := write(filepath.Join(dir, "cgroup.max.descendants"), "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("create cgroup %s: %w", id, err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("create cgroup %s: %w", id, err)
	}
	return f, nil
}

// Add moves a process with all its threads into the machine's cgroup. It creates
// the cgroup if it does not exist. The error is unix.ESRCH if there is no such
// process.
func (g *Groups) Add(id string, pid int) error {
	f, err := g.Ensure(id)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := write(filepath.Join(f.Name(), "cgroup.procs"), strconv.Itoa(pid)); err != nil {
		return fmt.Errorf("move process %d into cgroup %s: %w", pid, id, err)
	}
	return nil
}

// Of returns the id of the machine whose cgroup contains the process. It returns
// "" if the process is in no machine's cgroup or does not exist.
func (g *Groups) Of(pid int) (id string, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("cgroup of process %d: %w", pid, err)
	}
	return g.parseMembership(string(b)), nil
}

// parseMembership parses /proc/PID/cgroup.
func (g *Groups) parseMembership(text string) string {
	for line := range strings.Lines(text) {
		path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::")
		if !ok {
			continue
		}
		// The kernel adds this suffix if the cgroup was removed while it held only
		// zombies.
		path = strings.TrimSuffix(path, " (deleted)")
		below, ok := strings.CutPrefix(path, filepath.Join(g.root, g.parent)+"/")
		id, _, _ := strings.Cut(below, "/")
		if ok && validID.MatchString(id) {
			return id
		}
	}
	return ""
}

// Populated reports whether the machine's cgroup contains a living process. It
// returns false if the cgroup does not exist.
func (g *Groups) Populated(id string) (bool, error) {
	dir, err := g.Path(id)
	if err != nil {
		return false, err
	}
	f, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, g.absent(dir)
	}
	if err != nil {
		return false, fmt.Errorf("inspect cgroup %s: %w", id, err)
	}
	defer f.Close()
	populated, err := readPopulated(f)
	if err != nil {
		return false, fmt.Errorf("inspect cgroup %s: %w", id, err)
	}
	return populated, nil
}

// absent returns nil if the folder of a cgroup does not exist. It returns an
// error if the folder exists without the kernel's files, or if the hierarchy was
// unmounted: then nothing is known about the cgroup.
func (g *Groups) absent(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(filepath.Join(g.mount, "cgroup.procs")); err != nil {
			return fmt.Errorf("inspect %s: %w", g.mount, err) // it was unmounted
		}
		return nil
	}
	return fmt.Errorf("%s: not a cgroup", dir)
}

// Remove removes the machine's cgroup. It returns nil if the cgroup does not
// exist. The error is unix.EBUSY if the cgroup contains a living process.
func (g *Groups) Remove(id string) error {
	dir, err := g.Path(id)
	if err != nil {
		return err
	}
	if err := g.rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove cgroup %s: %w", id, err)
	}
	return nil
}

// readPopulated reads cgroup.events from its start, which also re-arms poll.
func readPopulated(f *os.File) (bool, error) {
	b := make([]byte, 512)
	n, err := f.ReadAt(b, 0)
	if n == 0 && err != nil {
		return false, err
	}
	for line := range strings.Lines(string(b[:n])) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "populated "); ok {
			return value != "0", nil
		}
	}
	return false, fmt.Errorf("%s does not report whether it is populated", f.Name())
}

// write writes to a file that the kernel created.
func write(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
