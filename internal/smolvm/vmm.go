// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/untrusted"
)

// process identifies one process. The kernel may reuse a PID, but never the same
// PID with the same start time.
type process struct {
	pid   int
	ticks uint64 // since boot, as in /proc/PID/stat
}

// vmsDir, below smolvm's home, holds the folders of all machines and, in
// sharedDir, what smolvm unpacked for several of them.
const (
	vmsDir    = ".cache/smolvm/vms"
	sharedDir = "_shared"
)

// dataDir is the folder where smolvm keeps a machine's disks and its VMM's PID.
func (d *Driver) dataDir(name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(d.opts.Home, vmsDir, hex.EncodeToString(sum[:])[:16])
}

// vmm returns the process that both the list and agent.pid name as the machine's
// VMM, and whether it is alive. It is an error if they disagree. A VMM can write
// agent.pid, so this alone does not prove that the process is a VMM.
func (d *Driver) vmm(name string, listed int) (p process, alive bool, err error) {
	p, err = readPIDFile(filepath.Join(d.dataDir(name), "agent.pid"))
	if err != nil {
		return p, false, err
	}
	if p.pid != listed {
		return p, false, fmt.Errorf("machine %s: smolvm lists process %d, agent.pid names %d", name, listed, p.pid)
	}
	return p, p.alive(), nil
}

func procFile(pid int, file string) string { return "/proc/" + strconv.Itoa(pid) + "/" + file }

// maxPIDFile is far more bytes than two numbers need.
const maxPIDFile = 256

// readPIDFile reads agent.pid: the PID and the start time in ticks. Its folder
// belongs to the user that the VMM runs as, so the file is untrusted.
func readPIDFile(path string) (process, error) {
	dir, file := filepath.Split(filepath.Clean(path))
	vms, machine := filepath.Split(filepath.Clean(dir))
	b, err := untrusted.ReadFile(vms, filepath.Join(machine, file), maxPIDFile)
	if err != nil {
		return process{}, err
	}
	words := strings.Fields(string(b))
	if len(words) < 2 {
		return process{}, fmt.Errorf("%s: no start time", path)
	}
	pid, err := strconv.Atoi(words[0])
	if err != nil || pid <= 0 {
		return process{}, fmt.Errorf("%s: no PID", path)
	}
	ticks, err := strconv.ParseUint(words[1], 10, 64)
	if err != nil {
		return process{}, fmt.Errorf("%s: no start time", path)
	}
	return process{pid, ticks}, nil
}

// startTicks returns the start time of a process; false if it is gone or a
// zombie, or if that cannot be determined.
func startTicks(pid int) (uint64, bool) {
	ticks, ok, err := ticksOf(pid)
	return ticks, ok && err == nil
}

// ticksOf is like startTicks, but returns an error if the process cannot be
// inspected.
func ticksOf(pid int) (ticks uint64, ok bool, err error) {
	b, err := os.ReadFile(procFile(pid, "stat"))
	if err != nil && !gone(err) {
		return 0, false, err
	}
	if err != nil {
		return 0, false, nil
	}
	ticks, ok = parseStat(b)
	return ticks, ok, nil
}

// alive reports whether p still exists and is not a zombie.
func (p process) alive() bool {
	ticks, ok := startTicks(p.pid)
	return ok && ticks == p.ticks
}

// parseStat reads fields 3, 20 and 22 of /proc/PID/stat: the state, the number of
// threads and the start time. Field 2, the program's name in parentheses, may
// hold anything. A process whose main thread has exited looks like a zombie
// while its other threads run.
func parseStat(b []byte) (uint64, bool) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return 0, false
	}
	fields := bytes.Fields(b[i+1:])
	if len(fields) < 20 || bytes.ContainsAny(fields[0], "Xx") {
		return 0, false
	}
	if threads, err := strconv.Atoi(string(fields[17])); string(fields[0]) == "Z" && (err != nil || threads < 2) {
		return 0, false
	}
	ticks, err := strconv.ParseUint(string(fields[19]), 10, 64)
	return ticks, err == nil
}

// bootTime converts ticks into a time. It reads the boot time only once: the
// kernel's answer changes when the clock is set, and a start time must not.
type bootTime struct {
	once sync.Once
	boot time.Time
}

// ticksPerSecond is USER_HZ, the same on every architecture that smolvm runs on.
const ticksPerSecond = 100

func (b *bootTime) at(ticks uint64) time.Time {
	b.once.Do(func() {
		stat, _ := os.ReadFile("/proc/stat")
		for _, line := range strings.Split(string(stat), "\n") {
			if rest, ok := strings.CutPrefix(line, "btime "); ok {
				sec, _ := strconv.ParseInt(rest, 10, 64)
				b.boot = time.Unix(sec, 0)
			}
		}
	})
	return b.boot.Add(time.Duration(ticks) * (time.Second / ticksPerSecond))
}
