// SPDX-License-Identifier: Apache-2.0

package state_test

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/test/require"
)

// TestAHalfRemovedFolderHasItsRuntime checks that the owner and the runtime are still there
// after a removal that stopped halfway.
func TestAHalfRemovedFolderHasItsRuntime(t *testing.T) {
	require.Root(t)
	f := folder(t)
	if err := errors.Join(f.Ensure(owner), f.WriteRuntime("pod"), f.WriteRecord(&state.Record{}), f.WriteCA([]byte("pem"))); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", f.BundleDir(), "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal("mount a tmpfs: ", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(f.BundleDir(), unix.MNT_DETACH) })

	if err := f.Remove(); !errors.Is(err, unix.EBUSY) {
		t.Fatalf("got %v, want EBUSY", err)
	}
	if got, err := f.Runtime(); err != nil || got != "pod" {
		t.Errorf("runtime: got %q, %v, want pod", got, err)
	}
	if got, err := f.Owner(); err != nil || got != owner {
		t.Errorf("owner: got %v, %v, want %v", got, err, owner)
	}
	if err := unix.Unmount(f.BundleDir(), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Remove(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{f.Path(), f.CADir()} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: got %v, want nothing left", path, err)
		}
	}
}
