// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestInstallFromTheCommandLine(t *testing.T) {
	payload, root := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(payload, "smolvm"), []byte("one"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv(versionVariable, "1.32.2")
	args := []string{"--from", payload, "--host-root", root, "--name", "smolvm"}
	for _, want := range []string{"Installed smolvm 1.32.2\n", "smolvm 1.32.2 is installed already\n"} {
		var out strings.Builder
		if err := run(args, &out); err != nil || out.String() != want {
			t.Errorf("got %q, %v, want %q", out.String(), err, want)
		}
	}
	if got, err := os.Readlink(filepath.Join(root, "opt/smolvm/current")); got != "versions/1.32.2" {
		t.Errorf("got current -> %q, %v, want versions/1.32.2", got, err)
	}
	for name, bad := range map[string][]string{
		"no name":        {"--host-root", root},
		"a relative one": {"--host-root", "host", "--name", "smolvm"},
		"no host root":   {"--name", "smolvm"},
		"unknown flag":   {"--force"},
	} {
		if err := run(bad, &strings.Builder{}); err == nil {
			t.Errorf("%s: got no error, want one", name)
		}
	}
}
