// SPDX-License-Identifier: Apache-2.0

package flatten

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/test/imagetree"
	"botbottle.dev/bottle-operator/test/require"
)

// The work and the memory that a name costs are bounded, whether the name itself
// or links make it deep.
func TestDeepNames(t *testing.T) {
	require.Root(t)
	var links []imagetree.Entry
	for i := range 5 {
		links = append(links, imagetree.Symlink(fmt.Sprint("l", i), strings.Repeat("d/", 200*i+200)+"."))
	}
	for name, c := range map[string]struct {
		layer  []byte
		limits Limits
		want   error
	}{
		"deep":                     {imagetree.Tar(t, imagetree.File(imagetree.Deep(maxDepth-1)+"/f", "")), testLimits, nil},
		"too deep":                 {imagetree.Tar(t, imagetree.File(strings.Repeat("a/", 2000)+"f", "")), testLimits, ErrInvalid},
		"far too long":             {imagetree.Tar(t, imagetree.File(strings.Repeat("a/", 250_000)+"f", "")), testLimits, ErrInvalid},
		"too deep by links":        {imagetree.Tar(t, append(links, imagetree.File("l0/f", ""), imagetree.File("l4/f", ""))...), testLimits, ErrInvalid},
		"folders without own":      {imagetree.Tar(t, imagetree.File("a/b/c/d/e/f/g/h/i", ""), imagetree.File("j/k/l", "")), Limits{MaxBytes: 1 << 20, MaxEntries: 11}, ErrTooManyEntries},
		"parents by links":         {imagetree.Tar(t, imagetree.Symlink("l", "."), imagetree.File("l/l/l/l/l/l/f", "")), Limits{MaxBytes: 1 << 20, MaxEntries: 4}, ErrTooManyEntries},
		"long, but not when clean": {imagetree.Tar(t, imagetree.File(strings.Repeat("../", 2000)+"a", "")), testLimits, nil},
	} {
		dir := t.TempDir()
		if _, err := Flatten(t.Context(), dir, layersOf(c.layer), io.Discard, c.limits); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		wantEmpty(t, dir)
	}
}

// To make a folder, containerd's code searches all layers below for it.
func TestDeepNameOverManyLayers(t *testing.T) {
	require.Root(t)
	var layers [][]byte
	for range 200 {
		layers = append(layers, imagetree.Tar(t, imagetree.File("x", "")))
	}
	deep := imagetree.Tar(t, imagetree.File(imagetree.Deep(400)+"/f", ""))
	if _, err := Flatten(t.Context(), t.TempDir(), layersOf(append(layers, deep)...), io.Discard, testLimits); !errors.Is(err, ErrInvalid) {
		t.Errorf("got %v, want ErrInvalid", err)
	}
}

func TestNamesThatAreTooLong(t *testing.T) {
	require.Root(t)
	var entries []imagetree.Entry
	for i := range 10 {
		entries = append(entries, imagetree.File(fmt.Sprint(strings.Repeat(strings.Repeat("x", 200)+"/", 5), i), ""))
	}
	_, err := Flatten(t.Context(), t.TempDir(), layersOf(imagetree.Tar(t, entries...)), io.Discard, Limits{MaxBytes: 1 << 20, MaxEntries: 30})
	if !errors.Is(err, ErrLongNames) {
		t.Errorf("got %v, want ErrLongNames", err)
	}
}

// A limit of the file system is not taken for a full disk, which would make the
// node remove images.
func TestLargeAttributes(t *testing.T) {
	require.Root(t)
	layer := imagetree.Tar(t, imagetree.File("f", "").Xattr("user.x", strings.Repeat("x", 30_000)))
	_, err := Flatten(t.Context(), t.TempDir(), layersOf(layer), io.Discard, testLimits)
	// Some file systems have room for them.
	if err != nil && (!errors.Is(err, ErrInvalid) || errors.Is(err, unix.ENOSPC)) {
		t.Errorf("got %v, want nil or ErrInvalid", err)
	}
}

// The records of an entry do not stay in memory, as containerd's code keeps the
// headers of all folders of a layer.
func TestMemory(t *testing.T) {
	require.Root(t)
	const folders, record, limit = 64, 1<<20 - 4096, 24 << 20
	r, w := io.Pipe()
	go func() {
		archive := tar.NewWriter(w)
		for i := range folders {
			_ = archive.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprint(strings.Repeat("x", 120), i, "/"), Mode: 0o755, Format: tar.FormatPAX,
				PAXRecords: map[string]string{"TEST.record": strings.Repeat("x", record)}})
		}
		_ = w.CloseWithError(archive.Close())
	}()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	layer := Layer{Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(&atEnd{r, func() { runtime.GC(); runtime.ReadMemStats(&after) }}), nil
	}}
	if _, err := Flatten(t.Context(), t.TempDir(), []Layer{layer}, io.Discard, Limits{MaxBytes: 1 << 30, MaxEntries: 1000}); err != nil {
		t.Fatal(err)
	}
	if more := int64(after.HeapAlloc) - int64(before.HeapAlloc); more > limit {
		t.Errorf("at the end of the layer: got %d MiB more in memory, want at most %d", more>>20, limit>>20)
	}
}

type atEnd struct {
	io.Reader
	call func()
}

func (r *atEnd) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		r.call()
	}
	return n, err
}
