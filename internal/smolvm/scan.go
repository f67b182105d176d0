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
	found, err := d.scan(ctx, g, names)
	if err != nil {
		return nil, fmt.Errorf("scan for VMMs: %w", err)
	}
	var vmms []host.VMM
	for _, f := range found {
		ns, err := netnsOf(f.pid)
		// What was read belongs to this process only if it is still alive.
		if !f.alive() {
			continue
		}
		// One process must not hide all others. An exiting process no longer has
		// a namespace and runs no code. If the namespace of any other process
		// cannot be determined, the process counts as outside every wall.
		switch {
		case err == nil:
		case errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE):
			return nil, fmt.Errorf("scan for VMMs: process %d of machine %s: %w", f.pid, f.name, err)
		case exiting(f.pid):
			continue
		}
		vmms = append(vmms, host.VMM{Name: f.name, PID: f.pid, StartTime: d.booted.at(f.ticks), NetNS: ns})
	}
	return vmms, nil
}

// machineProcess is a process that belongs to the machine name.
type machineProcess struct {
	process
	name string
}

// scan finds the living processes of these machines. It first moves strays into
// the machines' cgroups, and then lists the cgroups. It also returns strays that
// cannot be moved.
func (d *Driver) scan(ctx context.Context, g *cgroup.Groups, names []string) ([]machineProcess, error) {
	strays, err := d.strays(ctx, names)
	if err != nil || g == nil { // without the hierarchy, every VMM is a stray
		return strays, err
	}
	var found []machineProcess
	for _, s := range strays {
		if err := d.adopt(g, s); err != nil && !errors.Is(err, errNoStray) {
			found = append(found, s)
		}
	}
	for _, name := range names {
		pids, err := g.Procs(name)
		if err != nil {
			return nil, err
		}
		for _, pid := range pids {
			ticks, ok, err := ticksOf(pid)
			if err != nil {
				return nil, err
			}
			if ok {
				found = append(found, machineProcess{process{pid, ticks}, name})
			}
		}
	}
	return found, nil
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
