// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"errors"
	"fmt"
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
	head := make([]byte, maxCmdline)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		n, err := readStart(procFile(pid, "cmdline"), head)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) {
			return nil, fmt.Errorf("process %d: %w", pid, err)
		}
		dir, ok := bootsFrom(head[:n])
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

// maxCmdline is more than a VMM's argv takes: smolvm's path and that of a file
// below its home.
const maxCmdline = 8 << 10

// readStart reads the start of a file of /proc in half the time that os takes,
// which is the time of a scan.
func readStart(path string, buf []byte) (int, error) {
	fd, err := ignoringEINTR(func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	n, err := ignoringEINTR(func() (int, error) { return unix.Read(fd, buf) })
	return max(n, 0), err
}

func ignoringEINTR(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
