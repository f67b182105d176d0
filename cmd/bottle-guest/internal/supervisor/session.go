// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// killSession kills the processes of a session that are in other process groups, such
// as a shell's jobs. It needs /proc; without it, they live on. A process that has
// made a session of its own lives on too: it chose to outlive the workload.
func killSession(id int) {
	for range 3 { // a process may fork meanwhile
		if !killMembers(id) {
			return
		}
	}
}

// killMembers reports whether it has killed any process.
func killMembers(session int) bool {
	dir, err := os.Open("/proc")
	if err != nil {
		return false
	}
	defer dir.Close()
	killed := false
	for {
		names, err := dir.Readdirnames(256)
		for _, name := range names {
			pid, err := strconv.Atoi(name)
			if err == nil && pid > 1 && pid != os.Getpid() && sessionOf(pid) == session {
				killed = syscall.Kill(pid, syscall.SIGKILL) == nil || killed
			}
		}
		if err != nil {
			return killed
		}
	}
}

// sessionOf returns the session of a process that has not ended, and 0 if there is
// none or it is unknown.
func sessionOf(pid int) int {
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0
	}
	defer f.Close()
	stat, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return 0
	}
	// The name of the program, in parentheses, may contain anything. After it come the
	// state, the parent, the process group and the session.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 4 || fields[0][0] == 'Z' || fields[0][0] == 'X' {
		return 0
	}
	id, _ := strconv.Atoi(string(fields[3]))
	return id
}
