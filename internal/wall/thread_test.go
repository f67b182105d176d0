// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// wantThreadsInOneNetNS checks that all threads of this process are in one network
// namespace. A thread that was moved to another one ends soon after.
func wantThreadsInOneNetNS(t testing.TB) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		namespaces := map[string]bool{}
		tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
		must(t, err)
		for _, task := range tasks {
			if ns, err := os.Readlink(task); err == nil {
				namespaces[ns] = true
			}
		}
		if len(namespaces) == 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("network namespaces of the threads: got %v, want one", namespaces)
			return
		}
		time.Sleep(time.Millisecond)
	}
}
