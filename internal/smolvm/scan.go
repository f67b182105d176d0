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
		return nil, fmt.Errorf("look for VMMs: %w", err)
	}
	// A name that no machine can have must not hide the others.
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !cgroup.ValidID(name) })
	found, err := d.scan(ctx, g, names)
	if err != nil {
		return nil, fmt.Errorf("look for VMMs: %w", err)
	}
	var vmms []host.VMM
	for _, f := range found {
		ns, err := netnsOf(f.pid)
		// Whatever was read, it is that process's only if it is there still.
		if !f.alive() {
			continue
		}
		// One process must not hide all others. One that exits has no namespace
		// any more and runs no code. Any other whose namespace cannot be found
		// out counts as outside every wall.
		switch {
		case err == nil:
		case errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE):
			return nil, fmt.Errorf("look for VMMs: process %d of machine %s: %w", f.pid, f.name, err)
		case exiting(f.pid):
			continue
		}
		vmms = append(vmms, host.VMM{Name: f.name, PID: f.pid, StartTime: d.booted.at(f.ticks), NetNS: ns})
	}
	return vmms, nil
}

// vmmOf is a process of a machine.
type vmmOf struct {
	process
	name string
}

// scan finds the living processes of these machines: those in their cgroups,
// into which it moves strays first. A stray that cannot be moved is found all
// the same.
func (d *Driver) scan(ctx context.Context, g *cgroup.Groups, names []string) ([]vmmOf, error) {
	strays, err := d.strays(ctx, names)
	if err != nil || g == nil { // a node without the hierarchy has strays alone
		return strays, err
	}
	var found []vmmOf
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
				found = append(found, vmmOf{process{pid, ticks}, name})
			}
		}
	}
	return found, nil
}

// exiting reports whether all threads of a process are past the point where
// they run code of its own.
func exiting(pid int) bool {
	threads, _ := filepath.Glob(procFile(pid, "task/*/stat"))
	for _, thread := range threads {
		stat, err := os.ReadFile(thread)
		if err == nil && !threadExits(stat) {
			return false
		}
	}
	return true
}

// flagExiting is PF_EXITING of the kernel's flags of a task.
const flagExiting = 0x4

// threadExits reads fields 3 and 9 of /proc/PID/task/TID/stat: the state and
// the flags.
func threadExits(stat []byte) bool {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 7 {
		return false
	}
	flags, err := strconv.ParseUint(string(fields[6]), 10, 64)
	return bytes.ContainsAny(fields[0], "ZXx") || err == nil && flags&flagExiting != 0
}

// namespaceAttempts is how often the threads of a process are looked at whose
// first one has ended.
const namespaceAttempts = 5

// netnsOf is a process's network namespace; that of another of its threads
// when its first one has ended.
func netnsOf(pid int) (host.NetNS, error) {
	st, err := os.Stat(procFile(pid, "ns/net"))
	for range namespaceAttempts { // threads may end while they are looked at
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
		return host.NetNS{}, errors.New("no identity of its network namespace")
	}
	return host.NetNS{Dev: sys.Dev, Inode: sys.Ino}, nil
}
