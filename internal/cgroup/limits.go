// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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

// SetLimits writes the limits of a machine's cgroup, which must exist. It enables
// the controllers for the parent and the cgroups in it. It returns the names of
// the controllers that it could not enable, sorted; these are not an error.
func (g *Groups) SetLimits(id string, l Limits) (missing []string, err error) {
	dir, err := g.Path(id)
	if err != nil {
		return nil, err
	}
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
	var errs []error
	for _, controller := range controllers {
		value := values[controller]
		if value == "" {
			continue
		}
		if !g.enable(controller) {
			missing = append(missing, controller)
			continue
		}
		if err := write(filepath.Join(dir, controller+".max"), value); err != nil {
			errs = append(errs, fmt.Errorf("limits of cgroup %s: %w", id, err))
		}
	}
	slices.Sort(missing)
	return missing, errors.Join(errs...)
}

// enable enables a controller in every cgroup from the mount down to the
// machines' parent. The kernel refuses if a cgroup on that path contains
// processes.
func (g *Groups) enable(controller string) bool {
	dir := g.mount
	for _, child := range append(strings.Split(g.parent, "/"), "") {
		available, err := words(filepath.Join(dir, "cgroup.controllers"))
		if err != nil || !slices.Contains(available, controller) {
			return false
		}
		control := filepath.Join(dir, "cgroup.subtree_control")
		enabled, err := words(control)
		if err != nil || !slices.Contains(enabled, controller) && write(control, "+"+controller) != nil {
			return false
		}
		dir = filepath.Join(dir, child)
	}
	return true
}

func words(path string) ([]string, error) {
	b, err := os.ReadFile(path)
	return strings.Fields(string(b)), err
}
