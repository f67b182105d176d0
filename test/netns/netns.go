// SPDX-License-Identifier: Apache-2.0

// Package netns creates network namespaces for tests. They are empty and have no
// way out; the test adds what it needs.
package netns

import (
	"fmt"
	"os/exec"
	"syscall"
	"testing"

	"botbottle.dev/bottle-operator/test/require"
)

// New creates an empty namespace that exists until the test ends, and returns the
// path of its file. It needs root.
func New(t testing.TB) (path string) {
	t.Helper()
	require.Root(t)
	cmd := exec.Command("/bin/sleep", "3600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)
}
