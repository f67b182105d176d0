// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"os"
	"sync"

	"botbottle.dev/bottle-operator/internal/cgroup"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/runner"
)

// groups opens the machines' cgroups when they are first needed, and tries
// again while there is no hierarchy.
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
	// overheadBytes is what a VMM may use on top of its guest's memory. It was
	// measured at 30 to 130 MiB, with the page cache of the machine's disks,
	// which the kernel takes back when the limit is near. The limit is to stop
	// a VMM that was taken over, not to keep accounts: it is generous.
	overheadBytes = 512 << 20
	// maxThreads is pids.max: a VMM has a thread for each vCPU, some dozens for
	// its devices, and some for connections.
	maxThreads = 2048
	// overheadMillis is what its devices may use on top of its vCPUs, in
	// thousandths of a CPU.
	overheadMillis = 500
)

// limitsOf are the limits of a machine's cgroup, of the size that smolvm
// lists. What is not listed is not limited.
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

// confine makes the machine's cgroup anew, with its limits where the node can
// set them, and returns its folder. The caller closes it. A process in it is an
// error: clear comes first.
//
// What is cloned into a cgroup that was ever killed, from one that was not, is
// killed too (seen with Linux 6.18, which compares how often the two were).
func (d *Driver) confine(m host.Machine) (*os.File, error) {
	g, err := d.cgroups()
	if err != nil {
		return nil, err
	}
	if err := g.Remove(m.Name); err != nil {
		return nil, err
	}
	folder, err := g.Ensure(m.Name)
	if err != nil {
		return nil, err
	}
	// Controllers that are missing are a fact of the node.
	if _, err := g.SetLimits(m.Name, limitsOf(m)); err != nil {
		folder.Close()
		return nil, err
	}
	return folder, nil
}

// dropOOMProtection is for what smolvm started before the runner had dropped
// its own.
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

// owns reports whether p lives and belongs to the machine: it is in its
// cgroup, or is a stray of the machine's, which is moved there.
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
	return d.adopt(g, vmmOf{p, name}) == nil
}
