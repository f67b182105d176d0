// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"os"
	"strconv"
	"strings"
)

// ownAdjust is this process's own; tests, which may not lower it, have another.
var ownAdjust = "/proc/self/oom_score_adj"

// DropOOMProtection sets a process's oom_score_adj to 0 where this process's
// own is negative, which children inherit: when the node runs out of memory,
// the kernel must not spare them as it spares the agent. Every program is
// treated so as soon as it has started; what it started before that needs it
// again. One that is gone is left alone.
func DropOOMProtection(pid int) {
	own, err := os.ReadFile(ownAdjust)
	if err != nil || !strings.HasPrefix(string(own), "-") {
		return
	}
	// It fails only for a process that is gone: this one may raise any value.
	_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte("0"), 0)
}
