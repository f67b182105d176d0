// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"errors"
	"path/filepath"
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
)

// VaultFixture is a node for TestVault.
type VaultFixture struct {
	Vault host.Vault
	// Reboot does what a reboot does to the vault.
	Reboot func(t *testing.T)
}

// TestVault checks the contract of host.Vault.
func TestVault(t *testing.T, open func(t *testing.T) VaultFixture) {
	const uid, other = "1a2b3c4d-0000-4000-8000-000000000000", "9f8e7d6c-0000-4000-8000-000000000000"
	ensure := func(t *testing.T, f VaultFixture, uid string) string {
		t.Helper()
		dir, err := f.Vault.EnsureFolder(t.Context(), uid)
		if err != nil || !filepath.IsAbs(dir) {
			t.Fatalf("ensure the folder: got %q, %v, want an absolute path", dir, err)
		}
		return dir
	}
	write := func(t *testing.T, f VaultFixture, uid, content string) {
		t.Helper()
		if err := f.Vault.WriteFile(t.Context(), uid, "secrets.json", []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	want := func(t *testing.T, f VaultFixture, uid, content string) {
		t.Helper()
		got, err := f.Vault.ReadFile(t.Context(), uid, "secrets.json")
		if err != nil || string(got) != content {
			t.Errorf("the file of %s: got %q, %v, want %q", uid, got, err, content)
		}
	}
	wantNone := func(t *testing.T, f VaultFixture, uid string) {
		t.Helper()
		if got, err := f.Vault.ReadFile(t.Context(), uid, "secrets.json"); !errors.Is(err, host.ErrNotFound) {
			t.Errorf("the file of %s: got %q, %v, want ErrNotFound", uid, got, err)
		}
	}
	t.Run("files", func(t *testing.T) {
		f := open(t)
		wantNone(t, f, uid)
		dir := ensure(t, f, uid)
		wantNone(t, f, uid)
		write(t, f, uid, "one")
		want(t, f, uid, "one")
		write(t, f, uid, "two, longer")
		want(t, f, uid, "two, longer")
		if again := ensure(t, f, uid); again != dir {
			t.Errorf("the folder again: got %s, want %s", again, dir)
		}
		want(t, f, uid, "two, longer")
		for range 2 {
			if err := f.Vault.RemoveFile(t.Context(), uid, "secrets.json"); err != nil {
				t.Errorf("remove the file: %v", err)
			}
		}
		wantNone(t, f, uid)
	})
	t.Run("folders", func(t *testing.T) {
		f := open(t)
		if err := f.Vault.WriteFile(t.Context(), uid, "secrets.json", []byte("x")); !errors.Is(err, host.ErrNotFound) {
			t.Errorf("write without a folder: got %v, want ErrNotFound", err)
		}
		if a, b := ensure(t, f, uid), ensure(t, f, other); a == b {
			t.Errorf("two Bottles have one folder: %s", a)
		}
		write(t, f, uid, "mine")
		write(t, f, other, "its")
		for range 2 {
			if err := f.Vault.RemoveFolder(t.Context(), uid); err != nil {
				t.Errorf("remove the folder: %v", err)
			}
		}
		wantNone(t, f, uid)
		want(t, f, other, "its")
		if err := f.Vault.RemoveFolder(t.Context(), other); err != nil {
			t.Error(err)
		}
		ensure(t, f, uid)
		write(t, f, uid, "again")
		want(t, f, uid, "again")
	})
	t.Run("a reboot", func(t *testing.T) {
		f := open(t)
		ensure(t, f, uid)
		write(t, f, uid, "x")
		f.Reboot(t)
		wantNone(t, f, uid)
		ensure(t, f, uid)
		wantNone(t, f, uid)
		write(t, f, uid, "y")
		want(t, f, uid, "y")
	})
	t.Run("names", func(t *testing.T) {
		f := open(t)
		ensure(t, f, uid)
		for _, bad := range []string{"", ".", "..", "../x", "a/b", "/etc/passwd", "1a2b3c4d/../x", "a\x00b"} {
			_, err := f.Vault.EnsureFolder(t.Context(), bad)
			_, readErr := f.Vault.ReadFile(t.Context(), uid, bad)
			for what, err := range map[string]error{
				"folder": err, "file": readErr,
				"removed folder": f.Vault.RemoveFolder(t.Context(), bad),
				"written file":   f.Vault.WriteFile(t.Context(), uid, bad, []byte("x")),
				"removed file":   f.Vault.RemoveFile(t.Context(), uid, bad),
			} {
				if !errors.Is(err, host.ErrInvalid) {
					t.Errorf("%s %q: got %v, want ErrInvalid", what, bad, err)
				}
			}
		}
	})
}
