// SPDX-License-Identifier: Apache-2.0

package vault_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/atomicfile"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/vault"
	"botbottle.dev/bottle-operator/test/require"
)

// volume is a folder in memory that the kubelet made for a Pod.
func volume(t *testing.T) string {
	t.Helper()
	require.Root(t)
	dir := t.TempDir()
	ok(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func inPod(dir string) vault.Pods {
	return vault.Pods{Dir: func(string) (string, error) { return dir, nil }}
}

// TestFilesInAPod: a file is there for every user of the container, and the folder stays
// when the Bottle goes, because the kubelet made it.
func TestFilesInAPod(t *testing.T) {
	dir := volume(t)
	p, file := inPod(dir), filepath.Join(dir, "secrets.json")
	ok(t, os.WriteFile(filepath.Join(dir, atomicfile.TempPrefix+"secrets.json"), []byte("half"), 0o600)) // of an agent that died
	if got, err := p.EnsureFolder(t.Context(), uid); err != nil || got != dir {
		t.Fatalf("folder: got %q, %v, want %q", got, err, dir)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("at the start: got %v, %v, want an empty folder", entries, err)
	}
	for _, text := range []string{"one", "two, longer"} {
		ok(t, p.WriteFile(t.Context(), uid, "secrets.json", []byte(text)))
		if got, err := p.ReadFile(t.Context(), uid, "secrets.json"); err != nil || string(got) != text {
			t.Errorf("got %q, %v, want %q", got, err, text)
		}
	}
	var st unix.Stat_t
	ok(t, unix.Lstat(file, &st))
	if st.Mode != unix.S_IFREG|0o444 || st.Uid != 0 || st.Gid != 0 {
		t.Errorf("got mode %o of %d:%d, want 444 of root", st.Mode, st.Uid, st.Gid)
	}
	for range 2 {
		ok(t, p.RemoveFile(t.Context(), uid, "secrets.json"))
	}
	ok(t, p.WriteFile(t.Context(), uid, "secrets.json", []byte("three")))
	ok(t, os.Mkdir(filepath.Join(dir, "folder"), 0o700))
	for range 2 {
		ok(t, p.RemoveFolder(t.Context(), uid))
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("at the end: got %v, %v, want an empty folder", entries, err)
	}
}

// TestBottleWithoutAPod: what is to be removed is gone, and nothing can be written.
func TestBottleWithoutAPod(t *testing.T) {
	for name, p := range map[string]vault.Pods{
		"no Pod":          {Dir: func(string) (string, error) { return "", host.ErrNotFound }},
		"no folder yet":   inPod(filepath.Join(t.TempDir(), "none")),
		"a folder's file": inPod(filepath.Join(volume(t), "none", "below")),
	} {
		_, folder := p.EnsureFolder(t.Context(), uid)
		_, read := p.ReadFile(t.Context(), uid, "secrets.json")
		write := p.WriteFile(t.Context(), uid, "secrets.json", []byte("x"))
		for call, err := range map[string]error{"EnsureFolder": folder, "ReadFile": read, "WriteFile": write} {
			if !errors.Is(err, host.ErrNotFound) {
				t.Errorf("%s, %s: got %v, want ErrNotFound", name, call, err)
			}
		}
		if err := errors.Join(p.RemoveFile(t.Context(), uid, "secrets.json"), p.RemoveFolder(t.Context(), uid)); err != nil {
			t.Errorf("%s: remove: got %v, want nil", name, err)
		}
	}
	unknown := errors.New("the state directory cannot be read")
	p := vault.Pods{Dir: func(string) (string, error) { return "", unknown }}
	if err := p.RemoveFolder(t.Context(), uid); !errors.Is(err, unknown) {
		t.Errorf("a folder that is not known: got %v, want an error", err)
	}
}

// TestPodFolderOnADisk: a credential never reaches a disk, even if the volume is not
// mounted where the agent looks.
func TestPodFolderOnADisk(t *testing.T) {
	dir := volume(t)
	ok(t, unix.Unmount(dir, unix.MNT_DETACH))
	var fs unix.Statfs_t
	ok(t, unix.Statfs(dir, &fs))
	if fs.Type == unix.TMPFS_MAGIC {
		require.Unmet(t, "needs a temporary folder on a disk: set TMPDIR")
	}
	if err := inPod(dir).WriteFile(t.Context(), uid, "secrets.json", []byte("hunter2")); err == nil {
		t.Error("got nil, want an error")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("got %v, %v, want no file", entries, err)
	}
}

// TestLinksInAPodAreNotFollowed: a Pod's container may have written to its volumes before
// the agent does.
func TestLinksInAPodAreNotFollowed(t *testing.T) {
	dir := volume(t)
	target := filepath.Join(t.TempDir(), "target")
	ok(t, os.WriteFile(target, []byte("the node's"), 0o600))
	p, file := inPod(dir), filepath.Join(dir, "secrets.json")
	ok(t, os.Symlink(target, file))
	ok(t, os.Symlink(target, filepath.Join(dir, atomicfile.TempPrefix+"secrets.json")))
	if got, err := p.ReadFile(t.Context(), uid, "secrets.json"); err == nil {
		t.Errorf("read: got %q, want an error", got)
	}
	ok(t, p.WriteFile(t.Context(), uid, "secrets.json", []byte("ours")))
	if info, err := os.Lstat(file); err != nil || !info.Mode().IsRegular() {
		t.Errorf("written: got %v, %v, want a file instead of the link", info, err)
	}
	ok(t, os.Symlink(filepath.Dir(target), filepath.Join(dir, "folder")))
	ok(t, p.RemoveFolder(t.Context(), uid))
	if got, err := os.ReadFile(target); err != nil || string(got) != "the node's" {
		t.Errorf("the target: got %q, %v, want it unchanged", got, err)
	}
	link := filepath.Join(t.TempDir(), "link")
	ok(t, os.Symlink(dir, link))
	if err := inPod(link).WriteFile(t.Context(), uid, "secrets.json", []byte("x")); err == nil {
		t.Error("a folder that is a link: got nil, want an error")
	}
}

func TestInvalidFilesInAPod(t *testing.T) {
	dir := volume(t)
	p := inPod(dir)
	for what, err := range map[string]error{
		"a path":      p.WriteFile(t.Context(), uid, "../x", nil),
		"no UID":      p.WriteFile(t.Context(), "../"+uid, "secrets.json", nil),
		"a large one": p.WriteFile(t.Context(), uid, "secrets.json", bytes.Repeat([]byte("x"), vault.MaxFile+1)),
	} {
		if !errors.Is(err, host.ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", what, err)
		}
	}
	full := bytes.Repeat([]byte("x"), 900<<10)
	ok(t, p.WriteFile(t.Context(), uid, "secrets.json", []byte("before")))
	ok(t, os.WriteFile(filepath.Join(dir, "rest"), full, 0o600))
	if err := p.WriteFile(t.Context(), uid, "secrets.json", full); err == nil {
		t.Error("a full volume: got nil, want an error")
	}
	if got, err := p.ReadFile(t.Context(), uid, "secrets.json"); err != nil || string(got) != "before" {
		t.Errorf("after that: got %q, %v, want the file of before", got, err)
	}
}
