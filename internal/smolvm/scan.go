// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"botbottle.dev/bottle-operator/internal/cgroup"
	"botbottle.dev/bottle-operator/internal/host"
)

// VMMs implements host.Machines.
func (d *Driver) VMMs(ctx context.Context, names []string) ([]host.VMM, error) {
	g, err := d.cgroups()
	if err != nil && !errors.Is(err, cgroup.ErrNoHierarchy) {
		return nil, fmt.Errorf("scan for VMMs: %w", err)
	}
	// Skip names that no machine can have: they must not hide the others.
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !cgroup.ValidID(name) })
	vmms, err := d.scan(ctx, g, names)
	if err != nil {
		return nil, fmt.Errorf("scan for VMMs: %w", err)
	}
	return vmms, nil
}

// Lives implements host.Machines.
func (d *Driver) Lives(ctx context.Context, name string) (bool, error) {
	if d.lives(name) {
		return true, nil
	}
	vmms, err := d.VMMs(ctx, []string{name}) // it may have a stray
	return len(vmms) > 0, err
}

// machineProcess is a process that belongs to the machine name.
type machineProcess struct {
	process
	name string
}

// scan finds the living processes of these machines. It looks for strays first,
// and moves them into the machines' cgroups. It also returns strays that cannot
// be moved.
func (d *Driver) scan(ctx context.Context, g *cgroup.Groups, names []string) ([]host.VMM, error) {
	members, err := listMembers(g, names)
	if err != nil {
		return nil, err
	}
	strays, err := d.straysExcept(ctx, names, members)
	if err != nil {
		return nil, err
	}
	var vmms []host.VMM
	for _, s := range strays {
		err := errStays // without the hierarchy
		if g != nil {
			err = d.adopt(g, s)
		}
		if err == nil || errors.Is(err, errNoStray) || !s.alive() { // it may be in a cgroup now
			continue
		}
		if vmms, err = d.appendVMM(vmms, s.name, s.pid); err != nil {
			return nil, err
		}
	}
	if g == nil {
		return vmms, nil
	}
	for _, name := range names {
		if vmms, err = d.appendMembers(vmms, g, name); err != nil {
			return nil, err
		}
	}
	return vmms, nil
}

// errStays means that a stray cannot be moved into a cgroup.
var errStays = errors.New("there is no cgroup to move it into")

// listMembers returns the PIDs in the machines' cgroups, to be skipped in a scan
// for strays. g is nil without the hierarchy.
func listMembers(g *cgroup.Groups, names []string) (map[int]bool, error) {
	all := make(map[int]bool, len(names))
	if g == nil {
		return all, nil
	}
	var pids []int
	var err error
	for _, name := range names {
		if pids, err = g.AppendMembers(pids[:0], name); err != nil {
			return nil, err
		}
		for _, pid := range pids {
			all[pid] = true
		}
	}
	return all, nil
}

// listAttempts is how often a cgroup is listed of which no process lived long
// enough to be read.
const listAttempts = 4

// appendMembers appends the processes in a machine's cgroup. It reads them as
// soon as they are listed, and lists them again if all of them were gone by then:
// a process that replaces itself by a child all the time must not stay unseen.
func (d *Driver) appendMembers(vmms []host.VMM, g *cgroup.Groups, name string) ([]host.VMM, error) {
	before := len(vmms)
	for range listAttempts {
		pids, err := g.AppendMembers(nil, name)
		if err != nil {
			return nil, err
		}
		for _, pid := range pids {
			if vmms, err = d.appendVMM(vmms, name, pid); err != nil {
				return nil, err
			}
		}
		if len(pids) == 0 || len(vmms) > before {
			break
		}
	}
	return vmms, nil
}

// appendVMM appends a process of a machine. It appends nothing if the process is
// gone, is exiting, or is a kernel thread.
func (d *Driver) appendVMM(vmms []host.VMM, name string, pid int) ([]host.VMM, error) {
	stat, err := os.ReadFile(procFile(pid, "stat"))
	if err != nil && !gone(err) {
		return nil, err
	}
	ticks, ok := parseStat(stat)
	if err != nil || !ok || cgroup.IsKernelThread(stat) {
		return vmms, nil
	}
	p := process{pid, ticks}
	ns, err := netnsOf(pid)
	// What was read belongs to this process only if it is still alive.
	if !p.alive() {
		return vmms, nil
	}
	// One process must not hide all others. An exiting process no longer has a
	// namespace and runs no code. If the namespace of any other process cannot be
	// determined, the process counts as outside every wall.
	switch {
	case err == nil:
	case errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE):
		return nil, fmt.Errorf("process %d of machine %s: %w", pid, name, err)
	case exiting(pid):
		return vmms, nil
	}
	return append(vmms, host.VMM{Name: name, PID: pid, StartTime: d.booted.at(ticks), NetNS: ns}), nil
}

// exiting reports whether all threads of a process are exiting and will not run
// the program's code again.
func exiting(pid int) bool {
	threads, _ := filepath.Glob(procFile(pid, "task/*/stat"))
	for _, thread := range threads {
		stat, err := os.ReadFile(thread)
		if err == nil && !threadExiting(stat) {
			return false
		}
	}
	return true
}

// flagExiting is PF_EXITING, one of the kernel's task flags.
const flagExiting = 0x4

// threadExiting reads fields 3 and 9 of /proc/PID/task/TID/stat: the state and
// the flags.
func threadExiting(stat []byte) bool {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 7 {
		return false
	}
	flags, err := strconv.ParseUint(string(fields[6]), 10, 64)
	return bytes.ContainsAny(fields[0], "ZXx") || err == nil && flags&flagExiting != 0
}

// namespaceAttempts is how often netnsOf reads the threads of a process whose
// main thread has exited.
const namespaceAttempts = 5

// netnsOf returns the network namespace of a process. If the main thread has
// exited, it returns the namespace of another thread.
func netnsOf(pid int) (host.NetNS, error) {
	st, err := os.Stat(procFile(pid, "ns/net"))
	for range namespaceAttempts { // threads may exit while they are listed
		if err == nil {
			break
		}
		threads, _ := filepath.Glob(procFile(pid, "task/*/ns/net"))
		for _, thread := range threads {
			if st, err = os.Stat(thread); err == nil {
				break
			}
		}
	}
	if err != nil {
		return host.NetNS{}, err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return host.NetNS{}, errors.New("cannot identify its network namespace")
	}
	return host.NetNS{Dev: sys.Dev, Inode: sys.Ino}, nil
}
