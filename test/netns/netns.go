// SPDX-License-Identifier: Apache-2.0

// Package netns makes network namespaces for tests. They are empty and lead
// nowhere: what is to be in one, the test puts there.
package netns

import (
	"fmt"
	"os/exec"
	"syscall"
	"testing"

	"botbottle.dev/bottle-operator/test/require"
)

// New is the file of a namespace with nothing in it, which lasts as long as
// the test. It needs root.
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
