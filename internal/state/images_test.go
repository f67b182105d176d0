// SPDX-License-Identifier: Apache-2.0

package state_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"botbottle.dev/bottle-operator/internal/state"
)

type images struct {
	*state.Images
	t            *testing.T
	local, store string
}

func newImages(t *testing.T) *images {
	t.Helper()
	root, local := t.TempDir(), t.TempDir()
	return &images{Images: open(t, root).Images(local), t: t, local: local, store: filepath.Join(root, "images")}
}

func (i *images) put(name, content string) {
	i.t.Helper()
	if err := os.WriteFile(filepath.Join(i.local, name), []byte(content), 0o600); err != nil {
		i.t.Fatal(err)
	}
}

func (i *images) get(name string) state.Image {
	i.t.Helper()
	img, err := i.Get(i.t.Context(), name)
	if err != nil {
		i.t.Fatal(err)
	}
	return img
}

func (i *images) wantStored(n int) {
	i.t.Helper()
	entries, err := os.ReadDir(i.store)
	if err != nil || len(entries) != n {
		i.t.Errorf("store: got %v %v, want %d archives", entries, err, n)
	}
}

func TestImagesAreKeptByContent(t *testing.T) {
	i := newImages(t)
	i.put("a.tar", "one")
	i.put("b.tar", "one")
	a := i.get("a.tar")
	// sha256 of "one".
	if want := "sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"; a.Digest != want {
		t.Errorf("digest: got %s, want %s", a.Digest, want)
	}
	wantMode(t, a.Path, 0o644)
	if b := i.get("b.tar"); b != a {
		t.Errorf("the same content: got %v, want %v", b, a)
	}
	i.wantStored(1)

	i.put("a.tar", "two, in place")
	changed := i.get("a.tar")
	if changed == a {
		t.Errorf("another content: got %v, want another image", changed)
	}
	if data, err := os.ReadFile(a.Path); err != nil || string(data) != "one" {
		t.Errorf("what machines may be made from: got %q %v, want it unchanged", data, err)
	}
	i.wantStored(2)

	// Somebody tidied up.
	if err := os.Remove(changed.Path); err != nil {
		t.Fatal(err)
	}
	if again := i.get("a.tar"); again != changed {
		t.Errorf("copied again: got %v, want %v", again, changed)
	}
	i.wantStored(2)
}

func TestImagesStayInTheirFolder(t *testing.T) {
	i := newImages(t)
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("root's"), 0o600); err != nil {
		t.Fatal(err)
	}
	i.put("a.tar", "one")
	for name, target := range map[string]string{"abs.tar": outside, "near.tar": "a.tar"} {
		if err := os.Symlink(target, filepath.Join(i.local, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(i.local, "dir.tar"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"abs.tar", "near.tar", "dir.tar", "absent.tar"} {
		if img, err := i.Get(t.Context(), name); !errors.Is(err, state.ErrNoImage) {
			t.Errorf("%s: got %v %v, want %v", name, img, err, state.ErrNoImage)
		}
	}
	for _, name := range []string{"", "../secret", "x/y", "/etc/passwd"} {
		if img, err := i.Get(t.Context(), name); err == nil {
			t.Errorf("%q: got %v, want an error", name, img)
		}
	}
	if err := os.RemoveAll(i.local); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Get(t.Context(), "a.tar"); !errors.Is(err, state.ErrNoImage) {
		t.Errorf("no folder: got %v, want %v", err, state.ErrNoImage)
	}
	i.wantStored(0)
}

func TestACopyEndsWithItsContext(t *testing.T) {
	i := newImages(t)
	i.put("a.tar", "one")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := i.Get(ctx, "a.tar"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	i.wantStored(0)
}
