// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/test/require"
)

func TestDedupe(t *testing.T) {
	got := dedupe([]string{"A=1", "B=2", "A=3", "NOEQ", "=x", "C=a=b", "D=\x00", "E="})
	if diff := cmp.Diff([]string{"A=3", "B=2", "C=a=b", "E="}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestCopyTree(t *testing.T) {
	require.Root(t)
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	file := filepath.Join(from, "dir/file")
	for _, err := range []error{
		os.Mkdir(filepath.Dir(file), 0o750), os.WriteFile(file, []byte("text"), 0o644), os.Chown(file, 7, 8),
		os.Chmod(file, 0o755|os.ModeSetuid), os.Symlink("/outside", filepath.Join(from, "link")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second call replaces an existing, perhaps incomplete, copy
		if err := copyTree(from, to); err != nil {
			t.Fatal(err)
		}
	}
	st, err := os.Stat(filepath.Join(to, "dir/file"))
	if err != nil || st.Mode() != 0o755|os.ModeSetuid || st.Size() != 4 {
		t.Errorf("got %v, %v, want the file with its mode", st, err)
	}
	if got, err := os.Readlink(filepath.Join(to, "link")); err != nil || got != "/outside" {
		t.Errorf("link: got %s, %v, want it unchanged", got, err)
	}
	if st, err := os.Stat(filepath.Join(to, "dir")); err != nil || st.Mode().Perm() != 0o750 {
		t.Errorf("folder: got %v, %v, want 0750", st, err)
	}
}

func TestHostName(t *testing.T) {
	long := string(make([]byte, 128))
	if got := hostName(long); len(got) != 64 {
		t.Errorf("got %d characters, want 64, the maximum of a host name", len(got))
	}
}
