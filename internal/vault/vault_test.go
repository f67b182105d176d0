// SPDX-License-Identifier: Apache-2.0

package vault_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host/hostcontract"
	"botbottle.dev/bottle-operator/internal/vault"
	"botbottle.dev/bottle-operator/test/require"
)

const (
	uid    = "1a2b3c4d-0000-4000-8000-000000000000"
	reader = 65532
)

type fixture struct {
	*vault.Vault
	options vault.Options
}

func open(t *testing.T) *fixture {
	t.Helper()
	require.Root(t)
	// Other users must be able to reach the vault itself, so that its modes count.
	dir, err := os.MkdirTemp("/tmp", "vault-test-")
	ok(t, err)
	ok(t, os.Chmod(dir, 0o711))
	t.Cleanup(func() { ok(t, os.Remove(dir)) }) // fails if the vault is left
	f := &fixture{options: vault.Options{Dir: filepath.Join(dir, "vault"), Reader: reader}}
	f.Vault = vault.New(f.options)
	t.Cleanup(func() { ok(t, f.Sweep(t.Context(), nil)) })
	return f
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) write(t *testing.T, content string) (folder, file string) {
	t.Helper()
	folder, err := f.EnsureFolder(t.Context(), uid)
	ok(t, err)
	ok(t, f.WriteFile(t.Context(), uid, "secrets.json", []byte(content)))
	return folder, filepath.Join(folder, "secrets.json")
}

func TestContract(t *testing.T) {
	hostcontract.TestVault(t, func(t *testing.T) hostcontract.VaultFixture {
		f := open(t)
		return hostcontract.VaultFixture{Vault: f, Reboot: func(t *testing.T) { ok(t, unix.Unmount(f.options.Dir, unix.MNT_DETACH)) }}
	})
}

// readAs returns what a process with this user and group can read of the file.
func readAs(t *testing.T, user uint32, file string) string {
	t.Helper()
	cmd := exec.Command("/bin/cat", file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	out, _ := cmd.Output()
	return string(out)
}

// TestOnlyTheBundleReads: on the node, only root reaches a file. In a container, whose
// bundle sees only its folder, the bundle's user does, and nobody else.
func TestOnlyTheBundleReads(t *testing.T) {
	f := open(t)
	folder, file := f.write(t, "hunter2")
	if got := readAs(t, 0, file); got != "hunter2" {
		t.Fatalf("root: got %q", got)
	}
	for _, user := range []uint32{reader, 1000, 2000000} {
		if got := readAs(t, user, file); got != "" {
			t.Errorf("user %d reads the file on the node", user)
		}
	}
	mounted := filepath.Join(filepath.Dir(f.options.Dir), "mounted")
	ok(t, os.Mkdir(mounted, 0o755))
	ok(t, unix.Mount(folder, mounted, "", unix.MS_BIND, ""))
	defer func() { ok(t, unix.Unmount(mounted, 0)); ok(t, os.Remove(mounted)) }()
	file = filepath.Join(mounted, "secrets.json")
	if got := readAs(t, reader, file); got != "hunter2" {
		t.Errorf("the bundle: got %q", got)
	}
	for _, user := range []uint32{1000, 2000000} {
		if got := readAs(t, user, file); got != "" {
			t.Errorf("user %d reads the mounted file", user)
		}
	}
	info, err := os.Lstat(file)
	ok(t, err)
	if info.Mode() != 0o400 {
		t.Errorf("mode: got %v, want 0400", info.Mode())
	}
	// A reader in the container sees the next content, too.
	f.write(t, "hunter3")
	if got := readAs(t, reader, file); got != "hunter3" {
		t.Errorf("after a change: got %q", got)
	}
}

// mountOf returns the line about the vault in this process's list of mounts.
func mountOf(t *testing.T, dir string) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	ok(t, err)
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, " "+dir+" ") {
			return line
		}
	}
	return ""
}

func TestNeverOnADiskOrInSwap(t *testing.T) {
	f := open(t)
	f.write(t, "hunter2")
	mount := mountOf(t, f.options.Dir)
	if !strings.Contains(mount, " ramfs ") && !(strings.Contains(mount, " tmpfs ") && strings.Contains(mount, "noswap")) {
		t.Errorf("got mount %q, want a ramfs, or a tmpfs with noswap", mount)
	}
	for _, option := range []string{"nosuid", "nodev", "noexec"} {
		if !strings.Contains(mount, option) {
			t.Errorf("got mount %q, want %s", mount, option)
		}
	}
	// What somebody unmounted is not replaced by a folder on the disk.
	ok(t, unix.Unmount(f.options.Dir, unix.MNT_DETACH))
	ok(t, os.MkdirAll(filepath.Join(f.options.Dir, uid, "bundle"), 0o700))
	var st unix.Statfs_t
	ok(t, unix.Statfs(f.options.Dir, &st))
	if st.Type != unix.TMPFS_MAGIC {
		if err := f.WriteFile(t.Context(), uid, "secrets.json", []byte("hunter2")); err == nil {
			t.Error("write without the mount: got no error")
		}
	}
	ok(t, os.RemoveAll(f.options.Dir))
}

// TestNextAgent: a new agent finds the files, removes what belongs to no Bottle, and
// what the last one did not finish.
func TestNextAgent(t *testing.T) {
	f := open(t)
	folder, file := f.write(t, "hunter2")
	const gone = "9f8e7d6c-0000-4000-8000-000000000000"
	_, err := f.EnsureFolder(t.Context(), gone)
	ok(t, err)
	unfinished := filepath.Join(folder, ".tmp-secrets.json")
	ok(t, os.WriteFile(unfinished, []byte("half"), 0o600))

	next := vault.New(f.options)
	ok(t, next.Sweep(t.Context(), []string{uid}))
	_, err = next.EnsureFolder(t.Context(), uid)
	ok(t, err)
	if data, err := os.ReadFile(file); string(data) != "hunter2" {
		t.Errorf("the file of a Bottle that is here: got %q, %v", data, err)
	}
	for _, path := range []string{unfinished, filepath.Join(f.options.Dir, gone)} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is left", path)
		}
	}
	ok(t, next.RemoveFolder(t.Context(), uid))
	if mount := mountOf(t, f.options.Dir); mount != "" {
		t.Errorf("without a Bottle, the mount is left: %s", mount)
	}
}

func TestFull(t *testing.T) {
	f := open(t)
	f.write(t, "hunter2")
	err := f.WriteFile(t.Context(), uid, "secrets.json", make([]byte, vault.MaxFile+1))
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a file that is too large: got %v", err)
	}
	if data, err := f.ReadFile(t.Context(), uid, "secrets.json"); string(data) != "hunter2" {
		t.Errorf("afterwards: got %q, %v", data, err)
	}
}
