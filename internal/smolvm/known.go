// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

// known keeps the folders in /proc of processes that were seen in the machines'
// cgroups, together with what cannot change while a process lives: its start
// time, and that it is not a kernel thread. Everything else is read each time.
//
// An open folder of /proc belongs to one process. Once that process is gone, no
// file can be reached through it, even if another process has the PID.
type known struct {
	mu        sync.Mutex
	processes map[int]*knownProcess // by PID
	calls     uint64
}

type knownProcess struct {
	ticks uint64
	dir   *os.File
	used  uint64 // the last call that read it
}

// knownFor is for how many calls a process is kept that no call reads.
const knownFor = 256

// netns returns the network namespace and the start time of a known process. It
// returns false if the process is not known, or if its namespace cannot be read,
// for example because the process is gone.
func (k *known) netns(pid int) (host.NetNS, uint64, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.processes[pid]
	if p == nil {
		return host.NetNS{}, 0, false
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(p.dir.Fd()), "ns/net", &st, 0); err != nil {
		k.drop(pid)
		return host.NetNS{}, 0, false
	}
	p.used = k.calls
	return host.NetNS{Dev: st.Dev, Inode: st.Ino}, p.ticks, true
}

// add makes a process known. It must not be a kernel thread. If it is gone or
// its folder cannot be kept, add does nothing.
func (k *known) add(p process) {
	fd, err := unix.Open(procFile(p.pid, ""), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	dir := os.NewFile(uintptr(fd), procFile(p.pid, ""))
	if ticks, ok := ticksIn(dir); !ok || ticks != p.ticks { // the PID was reused
		dir.Close()
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.processes == nil {
		k.processes = map[int]*knownProcess{}
	}
	k.drop(p.pid)
	k.processes[p.pid] = &knownProcess{ticks: p.ticks, dir: dir, used: k.calls}
}

// ticksIn is like startTicks, for the process with this folder.
func ticksIn(dir *os.File) (uint64, bool) {
	fd, err := unix.Openat(int(dir.Fd()), "stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, false
	}
	f := os.NewFile(uintptr(fd), "stat")
	defer f.Close()
	stat, err := io.ReadAll(f)
	if err != nil {
		return 0, false
	}
	return parseStat(stat)
}

// count counts a call, and drops the processes that were not read for long.
func (k *known) count() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls++
	if k.calls%knownFor != 0 {
		return
	}
	for pid, p := range k.processes {
		if k.calls-p.used >= knownFor {
			k.drop(pid)
		}
	}
}

// drop forgets a process. The caller holds k.mu.
func (k *known) drop(pid int) {
	if p := k.processes[pid]; p != nil {
		p.dir.Close()
		delete(k.processes, pid)
	}
}
