// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"botbottle.dev/bottle-operator/internal/cgroup"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/machinesize"
	"botbottle.dev/bottle-operator/internal/runner"
)

// groups holds the machines' cgroups. They are opened on first use; while there
// is no hierarchy, each use tries again.
type groups struct {
	mu   sync.Mutex
	open *cgroup.Groups
}

func (d *Driver) cgroups() (*cgroup.Groups, error) {
	d.groups.mu.Lock()
	defer d.groups.mu.Unlock()
	if d.groups.open == nil {
		open, err := cgroup.Open(d.opts.Cgroups)
		if err != nil {
			return nil, err
		}
		d.groups.open = open
	}
	return d.groups.open, nil
}

const (
	// overheadBytes is what a VMM may use on top of its guest's memory. The
	// measured overhead is 30 to 130 MiB, including the page cache of the
	// machine's disks, which the kernel reclaims when the limit is near. The
	// limit is generous: its purpose is to stop a VMM that was taken over, not
	// accounting.
	overheadBytes = 512 << 20
	// leastOverheadBytes is the same in a Pod, whose limit may leave less room. A VMM
	// needs about that much that the kernel cannot reclaim.
	leastOverheadBytes = 64 << 20
	// maxThreads is pids.max: a VMM has one thread per vCPU, a few dozen for
	// its devices, and some for connections.
	maxThreads = 2048
	// overheadMillis is what a VMM's devices may use on top of its vCPUs, in
	// thousandths of a CPU.
	overheadMillis = 500
)

// limitsOf returns the limits of a machine's cgroup, computed from the size
// that smolvm lists. A resource that is not listed is not limited.
func limitsOf(m host.Machine) cgroup.Limits {
	l := cgroup.Limits{PIDs: maxThreads}
	if m.MemoryMiB > 0 {
		l.MemoryBytes = m.MemoryMiB<<20 + overheadBytes
	}
	if m.CPUs > 0 {
		l.CPUMillis = int64(m.CPUs)*1000 + overheadMillis
	}
	return l
}

// inPod returns the limits of a machine's cgroup in a Pod. podBytes is the Pod's own limit,
// or 0 for none. The machine's limit leaves the bundle its share: without that, a VMM that
// takes too much would have the kernel look for a victim in the whole Pod.
func inPod(l cgroup.Limits, m host.Machine, podBytes, bundleBytes int64) cgroup.Limits {
	if podBytes > 0 && m.MemoryMiB > 0 {
		l.MemoryBytes = min(l.MemoryBytes, max(podBytes-bundleBytes, m.MemoryMiB<<20+leastOverheadBytes))
	}
	return l
}

// bundleBytes returns how much of its Pod's memory a machine leaves to the bundle.
func (d *Driver) bundleBytes(name string) int64 {
	var recorded int64
	if d.opts.BundleMemory != nil {
		recorded = d.opts.BundleMemory(name)
	}
	return cmp.Or(recorded, machinesize.DefaultBundle.MemoryBytes)
}

// podOf returns the cgroup of the Pod in which the machine is to run; "" for none. Its only
// error is host.ErrUnavailable: if it returned the host.ErrNotFound of Parent, callers would
// take that to mean that there is no such machine.
func (d *Driver) podOf(ctx context.Context, name string) (string, error) {
	if d.opts.Parent == nil {
		return "", nil
	}
	pod, err := d.opts.Parent(ctx, name)
	if errors.Is(err, host.ErrRestarting) {
		return "", fmt.Errorf("look up the cgroup of the Bottle's Pod: %w", err)
	}
	if err != nil {
		return "", fmt.Errorf("%w: look up the cgroup of the Bottle's Pod: %v", host.ErrUnavailable, err) //nolint:errorlint // see above
	}
	return pod, nil
}

// confine recreates the machine's cgroup, in the cgroup of a Pod if pod is not "", sets its
// limits where the node can, and returns its folder. The caller closes it. It is an error
// if the cgroup still holds a process: call clear first.
//
// The cgroup must be new. If a cgroup was killed before, a process that is
// cloned into it from a cgroup that was not is killed too (seen with Linux
// 6.18, which compares how often each of the two was killed).
func (d *Driver) confine(m host.Machine, pod string) (*os.File, error) {
	g, err := d.cgroups()
	if err != nil {
		return nil, err
	}
	if err := g.Remove(m.Name); err != nil {
		return nil, err
	}
	var folder *os.File
	if pod == "" {
		folder, err = g.Ensure(m.Name)
	} else {
		folder, err = g.EnsureInPod(m.Name, pod)
	}
	if err != nil {
		return nil, err
	}
	podBytes, _, err := g.PodMemory(m.Name)
	if err == nil {
		// Missing controllers are not an error: the node may not have them.
		_, err = g.SetLimits(m.Name, inPod(limitsOf(m), m, podBytes, d.bundleBytes(m.Name)))
	}
	if err != nil {
		folder.Close()
		return nil, err
	}
	return folder, nil
}

// keepLimits restores the limits of a running machine's cgroup in a Pod if they were lost:
// systemd disables the controllers of a Pod's slice while the Pod has no container, and
// with them the kernel drops the limits of all cgroups in it. It changes no limit that is
// there, whoever set it. If it fails, the next list tries again.
func (d *Driver) keepLimits(m host.Machine) {
	if m.State != host.MachineRunning {
		return
	}
	g, err := d.cgroups()
	if err != nil {
		return
	}
	if podBytes, unlimited, err := g.PodMemory(m.Name); err == nil && unlimited {
		_, _ = g.SetLimits(m.Name, inPod(limitsOf(m), m, podBytes, d.bundleBytes(m.Name)))
	}
}

// dropOOMProtection drops the OOM protection of the machine's processes.
// smolvm may have started them before the runner dropped smolvm's own, and
// children inherit it.
func (d *Driver) dropOOMProtection(name string) {
	g, err := d.cgroups()
	if err != nil {
		return
	}
	pids, err := g.Procs(name)
	if err != nil {
		return
	}
	for _, pid := range pids {
		runner.DropOOMProtection(pid)
	}
}

func (d *Driver) removeCgroup(name string) error {
	g, err := d.cgroups()
	if err != nil {
		return err
	}
	return g.Remove(name)
}

// owns reports whether p is alive and belongs to the machine: either p is in
// the machine's cgroup, or p is a stray of the machine, which owns then moves
// there.
func (d *Driver) owns(name string, p process) bool {
	g, err := d.cgroups()
	if err != nil {
		return false
	}
	in, err := g.Of(p.pid)
	if err != nil {
		return false
	}
	if in != "" {
		return in == name && p.alive()
	}
	return d.adopt(g, machineProcess{p, name}) == nil
}
