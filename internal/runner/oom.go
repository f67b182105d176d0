// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"os"
	"strconv"
	"strings"
)

// ownAdjust is this process's oom_score_adj. Tests replace it, because they may
// not be allowed to lower the real one.
var ownAdjust = "/proc/self/oom_score_adj"

// DropOOMProtection sets the oom_score_adj of a process to 0 if this process's
// own is negative. Children inherit the negative value, but when the node runs
// out of memory, the kernel must not spare them as it spares the agent. Exec
// calls it for every program immediately after the start. Processes that the
// program started before that need a call of their own. It ignores processes
// that have exited.
func DropOOMProtection(pid int) {
	own, err := os.ReadFile(ownAdjust)
	if err != nil || !strings.HasPrefix(string(own), "-") {
		return
	}
	// It fails only if the process has exited: every process may raise the value.
	_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte("0"), 0)
}
