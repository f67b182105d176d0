// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// wantThreadsAtHome wants every thread of this process in one network
// namespace. One that was sent away dies soon after.
func wantThreadsAtHome(t testing.TB) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		away := map[string]bool{}
		tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
		must(t, err)
		for _, task := range tasks {
			if ns, err := os.Readlink(task); err == nil {
				away[ns] = true
			}
		}
		if len(away) == 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("network namespaces of the threads: got %v, want one", away)
			return
		}
		time.Sleep(time.Millisecond)
	}
}
