// SPDX-License-Identifier: Apache-2.0

package untrusted_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/untrusted"
	"botbottle.dev/bottle-operator/test/require"
)

const limit = 64

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestReadFile(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(outside, []byte("secret"), 0o600))
	tests := map[string]struct {
		make func(t *testing.T, path string)
		want error // nil: ReadFile returns "7 8"
	}{
		"a file":        {func(t *testing.T, p string) { must(t, os.WriteFile(p, []byte("7 8"), 0o600)) }, nil},
		"nothing":       {func(*testing.T, string) {}, fs.ErrNotExist},
		"a FIFO":        {func(t *testing.T, p string) { must(t, unix.Mkfifo(p, 0o600)) }, untrusted.ErrNotRegular},
		"a folder":      {func(t *testing.T, p string) { must(t, os.Mkdir(p, 0o700)) }, untrusted.ErrNotRegular},
		"/dev/zero":     {func(t *testing.T, p string) { must(t, os.Symlink("/dev/zero", p)) }, untrusted.ErrNotRegular},
		"a link":        {func(t *testing.T, p string) { must(t, os.Symlink(outside, p)) }, untrusted.ErrNotRegular},
		"a loop":        {func(t *testing.T, p string) { must(t, os.Symlink(p, p)) }, untrusted.ErrNotRegular},
		"terabytes":     {func(t *testing.T, p string) { must(t, os.WriteFile(p, nil, 0o600)); must(t, os.Truncate(p, 1<<42)) }, untrusted.ErrTooLarge},
		"just over":     {func(t *testing.T, p string) { must(t, os.WriteFile(p, make([]byte, limit+1), 0o600)) }, untrusted.ErrTooLarge},
		"a socket":      {socket, untrusted.ErrNotRegular},
		"a leased file": {lease, unix.EAGAIN},
		"a terminal":    {func(t *testing.T, p string) { must(t, os.Symlink("/dev/ptmx", p)) }, untrusted.ErrNotRegular},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.Mkdir(filepath.Join(dir, "vm"), 0o700))
			tt.make(t, filepath.Join(dir, "vm", "f"))
			type result struct {
				data []byte
				err  error
			}
			done := make(chan result, 1)
			go func() {
				data, err := untrusted.ReadFile(dir, "vm/f", limit)
				done <- result{data, err}
			}()
			select {
			case got := <-done:
				if !errors.Is(got.err, tt.want) || (tt.want == nil) != (string(got.data) == "7 8") {
					t.Errorf("got %q, %v, want %v", got.data, got.err, tt.want)
				}
			case <-time.After(10 * time.Second):
				t.Error("got no answer within 10s, want one immediately")
			}
		})
	}
}

func socket(t *testing.T, path string) {
	t.Helper()
	t.Chdir(filepath.Dir(path)) // the path itself may be too long
	l, err := net.Listen("unix", filepath.Base(path))
	must(t, err)
	t.Cleanup(func() { l.Close() })
}

// lease takes a lease on the file: nobody else can open it until the kernel's
// timeout of 45 s.
func lease(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		require.Unmet(t, fmt.Sprintf("cannot take a lease on a file: %v", err))
	}
}

func TestReadFileThroughLinkedFolder(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(other, "f"), []byte("x"), 0o600))
	must(t, os.Symlink(other, filepath.Join(dir, "vm")))
	for _, name := range []string{"vm/f", "../" + filepath.Base(other) + "/f"} {
		if got, err := untrusted.ReadFile(dir, name, limit); err == nil {
			t.Errorf("%s: got %q, want an error", name, got)
		}
	}
}

func TestRemoveAll(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	kept := filepath.Join(outside, "kept")
	must(t, os.WriteFile(kept, []byte("x"), 0o600))
	vm := filepath.Join(dir, "vm")
	must(t, os.MkdirAll(filepath.Join(vm, "a/b/c"), 0o700))
	must(t, os.MkdirAll(filepath.Join(vm, ".moved-1/x"), 0o700))
	must(t, os.Symlink(outside, filepath.Join(vm, "link")))
	must(t, os.Symlink(outside, filepath.Join(vm, "a/b/link")))
	must(t, unix.Mkfifo(filepath.Join(vm, "a/fifo"), 0o600))
	socket(t, filepath.Join(vm, "a/socket"))
	for i := range 1500 { // several batches
		must(t, os.WriteFile(filepath.Join(vm, "a/b", strconv.Itoa(i)), nil, 0o600))
	}
	must(t, untrusted.RemoveAll(t.Context(), dir, "vm"))
	if _, err := os.Lstat(vm); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after RemoveAll: got %v, want ErrNotExist", err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("target of a link: got %v, want it kept", err)
	}
	if err := untrusted.RemoveAll(t.Context(), dir, "vm"); err != nil {
		t.Errorf("again: got %v, want nil", err)
	}
	if err := untrusted.RemoveAll(t.Context(), filepath.Join(dir, "none"), "vm"); err != nil {
		t.Errorf("missing parent folder: got %v, want nil", err)
	}
	must(t, os.Symlink(outside, vm))
	must(t, untrusted.RemoveAll(t.Context(), dir, "vm"))
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("name is a link: got %v, want the target kept", err)
	}
}

// The number of descriptors is limited, but a VMM's user can nest any number of
// folders.
func TestRemoveAllOfDeepFolders(t *testing.T) {
	dir := t.TempDir()
	deep(t, dir, 3000)
	var limits unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limits))
	few := limits
	few.Cur = 200
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &few))
	defer func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limits)) }()
	if err := untrusted.RemoveAll(t.Context(), dir, "vm"); err != nil {
		t.Errorf("got %v, want nil", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "vm")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after RemoveAll: got %v, want ErrNotExist", err)
	}
}

// deep makes nested folders, deeper than any path can be long.
func deep(t *testing.T, dir string, levels int) {
	t.Helper()
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	must(t, err)
	for range levels {
		must(t, unix.Mkdirat(at, "vm", 0o700))
		next, err := unix.Openat(at, "vm", unix.O_PATH|unix.O_DIRECTORY, 0)
		must(t, err)
		must(t, unix.Close(at))
		at = next
	}
	must(t, unix.Close(at))
}

func TestRemoveAllEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "vm/a"), 0o700))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := untrusted.RemoveAll(ctx, dir, "vm"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// Files that are mounted into a folder belong to somebody else.
func TestRemoveAllDoesNotEnterMounts(t *testing.T) {
	require.Root(t)
	for _, at := range []string{"vm", "vm/a", "vm/a/b"} {
		t.Run(at, func(t *testing.T) {
			dir, shared := t.TempDir(), t.TempDir()
			kept := filepath.Join(shared, "kept")
			must(t, os.WriteFile(kept, nil, 0o600))
			must(t, os.MkdirAll(filepath.Join(dir, "vm/a/b"), 0o700))
			must(t, unix.Mount(shared, filepath.Join(dir, at), "", unix.MS_BIND, ""))
			mounted := true
			defer func() {
				if mounted {
					_ = unix.Unmount(filepath.Join(dir, at), unix.MNT_DETACH)
				}
			}()
			if err := untrusted.RemoveAll(t.Context(), dir, "vm"); err == nil {
				t.Error("got nil, want an error")
			}
			if _, err := os.Stat(kept); err != nil {
				t.Errorf("mounted file: got %v, want it kept", err)
			}
			must(t, unix.Unmount(filepath.Join(dir, at), 0))
			mounted = false
			if err := untrusted.RemoveAll(t.Context(), dir, "vm"); err != nil {
				t.Errorf("after unmount: got %v, want nil", err)
			}
		})
	}
}

func TestRemovePlanted(t *testing.T) {
	dir := t.TempDir()
	vm := filepath.Join(dir, "vm")
	must(t, os.MkdirAll(filepath.Join(vm, "folder"), 0o700))
	if err := untrusted.RemovePlanted(dir, "vm", nil); err != nil {
		t.Errorf("nothing planted: got %v, want nil", err)
	}
	for i := range 5000 { // more than RemovePlanted lists
		must(t, os.WriteFile(filepath.Join(vm, strconv.Itoa(i)), nil, 0o600))
	}
	must(t, unix.Mkfifo(filepath.Join(vm, "fifo"), 0o600))
	must(t, os.Symlink("/dev/zero", filepath.Join(vm, "link")))
	socket(t, filepath.Join(vm, "socket"))
	if err := untrusted.RemovePlanted(dir, "vm", []string{"fifo", "link", "socket", "folder", "none"}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"fifo": false, "link": false, "socket": true, "folder": true, "4999": true} {
		if _, err := os.Lstat(filepath.Join(vm, name)); (err == nil) != want {
			t.Errorf("%s: got %v, want it to exist: %v", name, err, want)
		}
	}
	must(t, os.RemoveAll(vm))
	must(t, os.Symlink(t.TempDir(), vm))
	if err := untrusted.RemovePlanted(dir, "vm", nil); err == nil {
		t.Error("a link in place of the folder: got nil, want an error")
	}
	if err := untrusted.RemovePlanted(dir, "none", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing folder: got %v, want %v", err, fs.ErrNotExist)
	}
}
