// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

// VMMs implements host.Machines.
func (d *Driver) VMMs(ctx context.Context, names []string) ([]host.VMM, error) {
	found, err := d.scan(ctx, names)
	if err != nil {
		return nil, fmt.Errorf("look for VMMs: %w", err)
	}
	var vmms []host.VMM
	for _, f := range found {
		ns, err := netnsOf(f.pid)
		// Whatever was read, it is that process's only if it is there still.
		if !d.isVMM(f.process, f.name) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look for VMMs: process %d of machine %s: %w", f.pid, f.name, err)
		}
		vmms = append(vmms, host.VMM{Name: f.name, PID: f.pid, StartTime: d.booted.at(f.ticks), NetNS: ns})
	}
	return vmms, nil
}

func netnsOf(pid int) (host.NetNS, error) {
	st, err := os.Stat(procFile(pid, "ns/net"))
	if err != nil {
		return host.NetNS{}, err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return host.NetNS{}, errors.New("no identity of its network namespace")
	}
	return host.NetNS{Dev: sys.Dev, Inode: sys.Ino}, nil
}

// vmmOf is a process that is a machine's VMM.
type vmmOf struct {
	process
	name string
}

// scan finds the living VMMs of these machines by their argv: agent.pid may be
// gone with the machine's folder, or be what a VMM wrote there.
//
// It remembers nothing of processes that are none: smolvm becomes a VMM by
// exec, in a process that was there before.
func (d *Driver) scan(ctx context.Context, names []string) ([]vmmOf, error) {
	dirs := make(map[string]string, len(names))
	for _, name := range names {
		dirs[d.dataDir(name)] = name
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []vmmOf
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		cmdline, err := os.ReadFile(procFile(pid, "cmdline"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			return nil, err
		}
		dir, ok := bootsFrom(cmdline)
		if !ok || dirs[dir] == "" {
			continue
		}
		ticks, ok := startTicks(pid)
		if p := (process{pid, ticks}); ok && d.isVMM(p, dirs[dir]) {
			found = append(found, vmmOf{p, dirs[dir]})
		}
	}
	return found, nil
}
