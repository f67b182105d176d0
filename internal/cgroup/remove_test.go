// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestRemoveParent(t *testing.T) {
	mount := t.TempDir()
	g, err := At(mount, DefaultParent, func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	// What the kernel does: a cgroup with processes, or with cgroups in it, stays.
	g.rmdir = func(dir string) error {
		if _, err := os.Stat(filepath.Join(dir, "busy")); err == nil {
			return unix.EBUSY
		}
		return unix.Rmdir(dir)
	}
	if g.Exists() || g.RemoveParent() != nil {
		t.Error("without cgroups: want nothing to do")
	}
	for _, id := range []string{"bottle-a-11111111", "bottle-b-22222222"} {
		f, err := g.Ensure(id)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		os.Remove(filepath.Join(mount, DefaultParent, id, "cgroup.max.descendants"))
	}
	busy := filepath.Join(mount, DefaultParent, "bottle-b-22222222", "busy")
	if err := os.WriteFile(busy, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := g.RemoveParent(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("with a living process: got %v, want EBUSY", err)
	}
	ids, err := g.List()
	if d := cmp.Diff([]string{"bottle-b-22222222"}, ids); err != nil || d != "" {
		t.Errorf("List: %v (-want +got):\n%s", err, d)
	}
	if err := os.Remove(busy); err != nil {
		t.Fatal(err)
	}
	if err := g.RemoveParent(); err != nil || g.Exists() {
		t.Errorf("got %v and the parent: %t, want it removed", err, g.Exists())
	}
}
