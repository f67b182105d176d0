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
	"sync"
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

// Groups are the machines' cgroups: below one parent, or directly below the cgroup of a
// Pod, so that kubelet accounts, limits and kills a machine with its Pod. Usually a
// machine has one; all methods consider all that it has. An id is the name of a machine,
// `bottle-…`; any other id is an error. The methods are safe for concurrent use.
type Groups struct {
	hierarchy
	// parent is the parent's path below the mount.
	parent string

	mu sync.Mutex
	// pods are the Pods' cgroups in which a machine has, or had, a cgroup: what EnsureInPod
	// created, and what was found when there was none in memory yet.
	pods map[string][]string
	// searched reports whether the Pods were searched for cgroups of an earlier process.
	searched bool

	// patience bounds the wait for a killed cgroup to become empty.
	patience time.Duration
	// kernel lets tests imitate what the kernel does.
	kernel
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

func open(h hierarchy, parent string) (*Groups, error) {
	if !ValidParent(parent) {
		return nil, fmt.Errorf("cgroup parent %q: want a relative path of names such as %s", parent, DefaultParent)
	}
	return &Groups{hierarchy: h, parent: parent, pods: map[string][]string{}, patience: 10 * time.Second, kernel: realKernel}, nil
}

// Path returns the folder of a machine's cgroup below the parent.
func (g *Groups) Path(id string) (string, error) {
	if !validID.MatchString(id) {
		return "", fmt.Errorf("cgroup %q: not a machine's name", id)
	}
	return filepath.Join(g.mount, g.parent, id), nil
}

// places returns the folders of the cgroups that the machine may have, of which any may
// not exist. If there is an error, they are all that are known.
func (g *Groups) places(id string) ([]string, error) {
	dir, err := g.Path(id)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	searched := g.searched
	g.mu.Unlock()
	if !searched {
		err = g.findInPods()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	dirs := []string{dir}
	for _, pod := range g.pods[id] {
		dirs = append(dirs, filepath.Join(g.mount, pod, id))
	}
	return dirs, err
}

// Ensure creates the machine's cgroup below the parent if it does not exist, and returns
// its open folder, into which a process can be cloned. The caller closes it.
func (g *Groups) Ensure(id string) (*os.File, error) {
	dir, err := g.Path(id)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create cgroup %s: %w", id, err)
	}
	return g.prepare(id, dir)
}

// EnsureInPod is like Ensure, but creates the cgroup below the cgroup of a Pod, for which
// see ValidPod. It does not create the Pod's: the error is fs.ErrNotExist if the Pod has
// gone.
func (g *Groups) EnsureInPod(id, pod string) (*os.File, error) {
	if !validID.MatchString(id) {
		return nil, fmt.Errorf("cgroup %q: not a machine's name", id)
	}
	if !ValidPod(pod) {
		return nil, fmt.Errorf("create cgroup %s: %q is not a path at which the kubelet puts cgroups of Pods", id, pod)
	}
	dir := filepath.Join(g.mount, pod, id)
	g.mu.Lock()
	g.remember(id, pod)
	err := os.Mkdir(dir, 0o755)
	g.mu.Unlock()
	if err == nil || errors.Is(err, fs.ErrExist) {
		err = g.setMark(dir, g.parent)
	}
	if err != nil {
		return nil, fmt.Errorf("create cgroup %s in %s: %w", id, pod, err)
	}
	return g.prepare(id, dir)
}

func (g *Groups) prepare(id, dir string) (*os.File, error) {
	if err := g.made(dir); err != nil {
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

// Add moves a process with all its threads into the machine's cgroup below the parent. It
// creates the cgroup if it does not exist. The error is unix.ESRCH if there is no such
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
		path, ok = strings.CutPrefix(path, strings.TrimSuffix(g.root, "/")+"/")
		if !ok {
			continue
		}
		below, ok := strings.CutPrefix(path, g.parent+"/")
		if !ok {
			var pod string
			pod, below = podAbove(path)
			id, _, _ := strings.Cut(below, "/")
			ok = pod != "" && g.hasMark(filepath.Join(g.mount, pod, id), g.parent)
		}
		id, _, _ := strings.Cut(below, "/")
		if ok && validID.MatchString(id) {
			return id
		}
	}
	return ""
}

// Populated reports whether a cgroup of the machine contains a living process. It
// returns false if it has no cgroup; it then has searched the Pods again, so that it has
// missed none.
func (g *Groups) Populated(id string) (bool, error) {
	dirs, err := g.places(id)
	if populated, err := g.anyPopulated(id, dirs); populated || err != nil {
		return populated, err
	}
	if err == nil {
		err = g.findInPods()
	}
	if err != nil {
		return false, err
	}
	again, err := g.places(id)
	if err != nil || len(again) == len(dirs) {
		return false, err
	}
	return g.anyPopulated(id, again)
}

func (g *Groups) anyPopulated(id string, dirs []string) (bool, error) {
	var errs []error
	for _, dir := range dirs {
		populated, err := g.populated(dir)
		if populated {
			return true, nil
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("inspect cgroup %s: %w", id, err))
		}
	}
	return false, errors.Join(errs...)
}

func (g *Groups) populated(dir string) (bool, error) {
	f, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, g.absent(dir)
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	populated, err := readPopulated(f)
	if errors.Is(err, unix.ENODEV) { // removed in the meantime, so it was empty
		return false, nil
	}
	return populated, err
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
