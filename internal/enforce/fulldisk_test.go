// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/test/require"
)

// TestAFullDiskKeepsNothingOpen checks that the copy of the rules that the bundle of a Pod
// reads is narrowed although the rules file cannot be written, and that what the file still
// allows does not come back, not even through another agent.
func TestAFullDiskKeepsNothingOpen(t *testing.T) {
	require.Root(t)
	f := newFixture(t)
	var volume []byte
	f.publish = func(_ string, data []byte) error { volume = data; return nil }
	f.change = func(o *enforce.Options) { o.Published = func(string) ([]byte, bool) { return volume, true } }
	f.restart()
	want := func(what string, rules ...string) {
		t.Helper()
		published, err := egress.DecodeFile(bytes.NewReader(volume))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range published.Rules() {
			got = append(got, r.String())
		}
		if !slices.Equal(got, rules) {
			t.Errorf("%s: got %q, want %q", what, got, rules)
		}
	}
	folder, err := f.dir.Folder(uid)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", folder.BundleDir(), "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal("mount a tmpfs: ", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(folder.BundleDir(), unix.MNT_DETACH) })
	if err := f.open(1, "a.example.com", "b.example.com"); err != nil {
		t.Fatal(err)
	}
	want("opened", "a.example.com:443", "b.example.com:443")
	full := filepath.Join(folder.BundleDir(), "full")
	if err := os.WriteFile(full, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("fill the disk: got %v, want ENOSPC", err)
	}

	if err := f.narrow(2, []int32{8888}, "a.example.com"); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v, want ENOSPC", err)
	}
	want("narrowed on a full disk", "a.example.com:443")
	_ = f.enforcer.ApplyLimits()
	want("after the limits were applied again", "a.example.com:443")
	f.restart()
	_ = f.enforcer.ApplyLimits()
	want("after another agent applied the limits", "a.example.com:443")
	if err := f.open(2, "a.example.com", "c.example.com"); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("opened on a full disk: got %v, want ENOSPC", err)
	}
	want("opened on a full disk", "a.example.com:443")
	if err := f.open(2); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("closed on a full disk: got %v, want ENOSPC", err)
	}
	want("closed on a full disk, as by a stop")
	f.restart()
	_ = f.narrow(2, []int32{8888}, "a.example.com")
	want("after another agent narrowed them")

	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	if err := f.open(2, "b.example.com"); err != nil {
		t.Fatal(err)
	}
	want("with room again", "b.example.com:443")
	if err := f.enforcer.ApplyLimits(); err != nil {
		t.Fatal(err)
	}
	want("the limits, with room again", "b.example.com:443")
}
