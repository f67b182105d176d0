// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits are the resource limits of one machine. A zero field sets no limit.
type Limits struct {
	// MemoryBytes is memory.max.
	MemoryBytes int64
	// PIDs is pids.max, which counts threads.
	PIDs int64
	// CPUMillis is cpu.max in thousandths of a CPU.
	CPUMillis int64
}

// controllers are the controllers that Limits needs.
var controllers = []string{"memory", "pids", "cpu"}

// cpuPeriod is the kernel's default period in microseconds.
const cpuPeriod = 100_000

// SetLimits writes the limits of the machine's cgroups, of which there must be one. It
// enables the controllers for the parent and the cgroups in it. In a Pod, which belongs to
// kubelet, it enables them at most for the cgroups that are directly below the Pod's. It
// returns the names of the controllers that it could not enable, sorted; these are not an
// error, except in a Pod if the node has the controller.
func (g *Groups) SetLimits(id string, l Limits) (missing []string, err error) {
	dirs, err := g.places(id)
	if err != nil {
		return nil, err
	}
	dirs = slices.DeleteFunc(dirs, func(dir string) bool {
		_, err := os.Lstat(dir)
		return errors.Is(err, fs.ErrNotExist)
	})
	if len(dirs) == 0 {
		return nil, fmt.Errorf("limits of cgroup %s: %w", id, fs.ErrNotExist)
	}
	var errs []error
	values := l.values()
	for _, controller := range controllers {
		value := values[controller]
		if value == "" {
			continue
		}
		for _, dir := range dirs {
			err := g.enable(controller, filepath.Dir(dir))
			if err == nil {
				err = write(filepath.Join(dir, controller+".max"), value)
			}
			if errors.Is(err, errNoController) {
				missing = append(missing, controller)
			} else if err != nil {
				errs = append(errs, fmt.Errorf("limits of cgroup %s: %w", id, err))
			}
		}
	}
	slices.Sort(missing)
	return slices.Compact(missing), errors.Join(errs...)
}

// values returns the contents of the files CONTROLLER.max.
func (l Limits) values() map[string]string {
	values := map[string]string{}
	if l.MemoryBytes > 0 {
		values["memory"] = strconv.FormatInt(l.MemoryBytes, 10)
	}
	if l.PIDs > 0 {
		values["pids"] = strconv.FormatInt(l.PIDs, 10)
	}
	if l.CPUMillis > 0 {
		values["cpu"] = fmt.Sprintf("%d %d", l.CPUMillis*cpuPeriod/1000, cpuPeriod)
	}
	return values
}

// errNoController means that a limit cannot be set, which is tolerated.
var errNoController = errors.New("the controller cannot be enabled")

// enable enables a controller for the cgroups in a machine's parent, dir.
func (g *Groups) enable(controller, dir string) error {
	if dir != filepath.Join(g.mount, g.parent) {
		return g.enableInPod(controller, dir)
	}
	// The kernel refuses if a cgroup on the path from the mount contains processes.
	dir = g.mount
	for _, child := range append(strings.Split(g.parent, "/"), "") {
		if enableIn(controller, dir) != nil {
			return errNoController
		}
		dir = filepath.Join(dir, child)
	}
	return nil
}

// enableInPod enables a controller for the cgroups in a Pod's. The container runtime
// usually has done so for the Pod's containers.
func (g *Groups) enableInPod(controller, pod string) error {
	if available, err := words(filepath.Join(g.mount, "cgroup.controllers")); err == nil && !slices.Contains(available, controller) {
		return errNoController // not even the node has it
	}
	return enableIn(controller, pod)
}

// enableIn enables a controller for the cgroups in one cgroup.
func enableIn(controller, dir string) error {
	available, err := words(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	if !slices.Contains(available, controller) {
		return fmt.Errorf("%s has no controller %s", dir, controller)
	}
	control := filepath.Join(dir, "cgroup.subtree_control")
	enabled, err := words(control)
	if err != nil || slices.Contains(enabled, controller) {
		return err
	}
	return write(control, "+"+controller)
}

// PodMemory returns memory.max, in bytes, of the Pod in which the machine has a cgroup.
// kubelet sets it to the sum of the containers' limits. It returns 0 if there is no limit,
// or no such Pod. unlimited reports whether the machine's own cgroup there has none.
func (g *Groups) PodMemory(id string) (bytes int64, unlimited bool, err error) {
	dirs, err := g.places(id)
	if err != nil {
		return 0, false, err
	}
	for _, dir := range dirs[1:] {
		if _, err := os.Lstat(dir); err != nil {
			continue // the Pod has gone
		}
		own, err := memoryMax(dir)
		if err == nil {
			bytes, err = memoryMax(filepath.Dir(dir))
		}
		if err != nil {
			return 0, false, fmt.Errorf("memory limit of cgroup %s: %w", id, err)
		}
		return bytes, own == 0, nil
	}
	return 0, false, nil
}

// memoryMax returns the memory limit of a cgroup; 0 if it has none, or no controller.
func memoryMax(dir string) (int64, error) {
	value, err := words(filepath.Join(dir, "memory.max"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || err == nil && slices.Equal(value, []string{"max"}) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.Join(value, " "), 10, 64)
}

func words(path string) ([]string, error) {
	b, err := os.ReadFile(path)
	return strings.Fields(string(b)), err
}
