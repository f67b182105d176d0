// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain also runs this program as the child of TestProtectMemory.
func TestMain(m *testing.M) {
	if os.Getenv("PROTECT_MEMORY") == "" {
		os.Exit(m.Run())
	}
	if err := protectMemory(); err != nil {
		os.Exit(1)
	}
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	var core unix.Rlimit
	if err != nil || dumpable != 0 || unix.Getrlimit(unix.RLIMIT_CORE, &core) != nil || core.Cur != 0 || core.Max != 0 {
		os.Exit(2)
	}
	_, _ = os.Stdout.WriteString("protected")
}

func TestProtectMemory(t *testing.T) {
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), "PROTECT_MEMORY=1")
	out, err := child.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "protected" {
		t.Errorf("child: got %q, %v, want no core dumps and no dumpable memory", out, err)
	}
}
