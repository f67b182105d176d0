// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRunning(t *testing.T) {
	g, err := At(t.TempDir(), DefaultParent, func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	wantRunning := func(want, fails bool) {
		t.Helper()
		if got, err := g.Running(); got != want || (err != nil) != fails {
			t.Errorf("got %v, %v, want %v, error %v", got, err, want, fails)
		}
	}
	wantRunning(false, false)
	parent := filepath.Join(g.mount, DefaultParent)
	if err := os.Mkdir(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{"populated 1\nfrozen 0\n": true, "populated 0\nfrozen 0\n": false} {
		if err := os.WriteFile(filepath.Join(parent, "cgroup.events"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		wantRunning(want, false)
	}
	if err := os.WriteFile(filepath.Join(parent, "cgroup.events"), []byte("something else\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	wantRunning(false, true)
}
