// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxProcs is the most bytes that are read from cgroup.procs.
const maxProcs = 1 << 20

// Procs returns the user processes in the machine's cgroups; none if it has no
// cgroup. It omits zombies, and kernel threads such as the vhost workers of older
// kernels, which end together with the process that they serve.
func (g *Groups) Procs(id string) ([]int, error) {
	pids, err := g.AppendMembers(nil, id)
	if err == nil {
		pids, err = withoutKernelThreads(pids)
	}
	if err != nil {
		return nil, fmt.Errorf("processes of cgroup %s: %w", id, err)
	}
	return pids, nil
}

func withoutKernelThreads(pids []int) ([]int, error) {
	out := pids[:0]
	for _, pid := range pids {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH):
			// It has ended.
		case err != nil:
			return nil, err
		case !IsKernelThread(stat):
			out = append(out, pid)
		}
	}
	return out, nil
}

// AppendMembers appends all processes in the machine's cgroups to pids, including
// kernel threads; none if it has no cgroup. It omits zombies.
func (g *Groups) AppendMembers(pids []int, id string) ([]int, error) {
	dirs, err := g.places(id)
	for _, dir := range dirs {
		if err == nil {
			pids, err = g.appendMembers(pids, dir)
		}
	}
	if err != nil {
		return pids, fmt.Errorf("processes of cgroup %s: %w", id, err)
	}
	return pids, nil
}

func (g *Groups) appendMembers(pids []int, dir string) ([]int, error) {
	all, err := appendProcs(pids, filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) {
		return pids, g.absent(dir)
	}
	if errors.Is(err, unix.ENODEV) { // removed in the meantime
		return pids, nil
	}
	if err != nil {
		return pids, err
	}
	return all, nil
}

// appendProcs reads cgroup.procs without package os, which would register the
// file with the runtime's poller each time.
func appendProcs(pids []int, path string) ([]int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return pids, err
	}
	defer func() { _ = unix.Close(fd) }()
	var b []byte
	for chunk := make([]byte, 4096); len(b) <= maxProcs; {
		n, err := unix.Read(fd, chunk)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return pids, err
		}
		if n == 0 {
			return parseProcs(pids, b, path)
		}
		b = append(b, chunk[:n]...)
	}
	return pids, fmt.Errorf("%s is longer than %d bytes", path, maxProcs)
}

func parseProcs(pids []int, b []byte, path string) ([]int, error) {
	for line := range bytes.Lines(b) {
		pid, err := strconv.Atoi(string(bytes.TrimSpace(line)))
		if err != nil || pid <= 0 { // 0: a process of a foreign pid namespace
			return pids, fmt.Errorf("%s: process %q is not in this pid namespace", path, bytes.TrimSpace(line))
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// kernelThread is PF_KTHREAD from the kernel's include/linux/sched.h.
const kernelThread = 0x00200000

// IsKernelThread reads field 9 of /proc/PID/stat, the flags. Field 2, the
// program's name in parentheses, may hold anything.
func IsKernelThread(stat []byte) bool {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 7 {
		return false
	}
	flags, err := strconv.ParseUint(string(fields[6]), 10, 64)
	return err == nil && flags&kernelThread != 0
}
