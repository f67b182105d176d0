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
	wantRunning := func(except string, want bool) {
		t.Helper()
		if got, err := g.Running(except); got != want || err != nil {
			t.Errorf("except %q: got %v, %v, want %v", except, got, err, want)
		}
	}
	wantRunning("", false) // there is not even the parent
	group := func(name, populated string) {
		t.Helper()
		dir := filepath.Join(g.mount, DefaultParent, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.events"), []byte("populated "+populated+"\nfrozen 0\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	group("agent", "1") // no machine
	group("bottle-ended-12345678", "0")
	wantRunning("", false)
	group("bottle-trial-00000000", "1")
	wantRunning("bottle-trial-00000000", false)
	wantRunning("", true)
	group("bottle-demo-12345678", "1")
	wantRunning("bottle-trial-00000000", true)
}
