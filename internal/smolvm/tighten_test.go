// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/ownthread"
	"botbottle.dev/bottle-operator/test/require"
)

// TestWhatAVMMsUserSees makes the folders as smolvm does, and checks that a VMM
// that was taken over can list none of them and reads nothing of others, but can
// still open what it was given by its path.
func TestWhatAVMMsUserSees(t *testing.T) {
	require.Root(t)
	const user = 2000001
	_, d := newCLI(t, "1.32.2")
	if _, err := d.Version(t.Context()); err != nil { // makes the home
		t.Fatal(err)
	}
	for at := filepath.Dir(d.opts.Home); len(at) > len(filepath.Clean(os.TempDir())); at = filepath.Dir(at) { // the test's own folders
		if err := os.Chmod(at, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	home := func(path string) string { return filepath.Join(d.opts.Home, path) }
	sum := strings.Repeat("a", 64)
	archive := archivesDir + "/" + sum + "/archive.tar"
	files := map[string]string{
		archive: "an image", ".local/share/smolvm/server/smolvm.db": "secrets", ".local/share/other/x": "x",
		".cache/smolvm-pack/12345678/x": "x", vmsDir + "/_shared/1/x": "x", vmsDir + "/0123456789abcdef/overlay.raw": "not started yet",
		vmsDir + "/aaaaaaaaaaaaaaaa/storage.raw": "its own",
	}
	for path, text := range files {
		if err := errors.Join(os.MkdirAll(filepath.Dir(home(path)), 0o755), os.WriteFile(home(path), []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	own := home(vmsDir + "/aaaaaaaaaaaaaaaa") // smolvm gives it to the VMM's user
	if err := errors.Join(os.Chown(own, user, user), os.Chmod(own, 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.ListMachines(t.Context()); err != nil { // any call
		t.Fatal(err)
	}
	var listed, read []string
	err := ownthread.Run(func() error {
		// The file system's checks of this thread are those of the VMM's user.
		if err := errors.Join(unix.Setfsgid(user), unix.Setfsuid(user)); err != nil {
			return err
		}
		err := filepath.WalkDir(d.opts.Home, func(path string, e fs.DirEntry, err error) error {
			rel, _ := filepath.Rel(d.opts.Home, path)
			if e != nil && e.IsDir() && err == nil {
				if _, err := os.ReadDir(path); err == nil {
					listed = append(listed, rel)
				}
			}
			return nil
		})
		for path := range files {
			if _, err := os.ReadFile(home(path)); err == nil {
				read = append(read, path)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(read)
	if len(listed) > 0 {
		t.Errorf("listed: got %q, want nothing", listed)
	}
	// What is shared between machines can be read by those who know its name.
	want := []string{archive, ".cache/smolvm-pack/12345678/x", vmsDir + "/_shared/1/x", vmsDir + "/aaaaaaaaaaaaaaaa/storage.raw", ".local/share/other/x"}
	slices.Sort(want)
	if !slices.Equal(read, want) {
		t.Errorf("read: got %q, want %q", read, want)
	}
}
