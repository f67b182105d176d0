// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxProcs is the most bytes that are read from cgroup.procs.
const maxProcs = 1 << 20

// Procs returns the user processes in the machine's cgroup; none if the cgroup
// does not exist. It omits zombies, and kernel threads such as the vhost workers
// of older kernels, which end together with the process that they serve.
func (g *Groups) Procs(id string) ([]int, error) {
	dir, err := g.Path(id)
	if err != nil {
		return nil, err
	}
	pids, err := readProcs(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, g.absent(dir)
	}
	if errors.Is(err, unix.ENODEV) { // removed in the meantime
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("processes of cgroup %s: %w", id, err)
	}
	out := pids[:0]
	for _, pid := range pids {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH):
			// It has ended.
		case err != nil:
			return nil, fmt.Errorf("processes of cgroup %s: %w", id, err)
		case !isKernelThread(stat):
			out = append(out, pid)
		}
	}
	return out, nil
}

func readProcs(path string) ([]int, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxProcs+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxProcs {
		return nil, fmt.Errorf("%s is longer than %d bytes", path, maxProcs)
	}
	var pids []int
	for line := range strings.Lines(string(b)) {
		pid, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil || pid <= 0 { // 0: a process of a foreign pid namespace
			return nil, fmt.Errorf("%s: process %q is not in this pid namespace", path, strings.TrimSpace(line))
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// kernelThread is PF_KTHREAD from the kernel's include/linux/sched.h.
const kernelThread = 0x00200000

// isKernelThread reads field 9 of /proc/PID/stat, the flags. Field 2, the
// program's name in parentheses, may hold anything.
func isKernelThread(stat []byte) bool {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 7 {
		return false
	}
	flags, err := strconv.ParseUint(string(fields[6]), 10, 64)
	return err == nil && flags&kernelThread != 0
}
