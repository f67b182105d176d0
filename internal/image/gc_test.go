// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// link adds the archive to smolvm's cache, as smolvm does when it creates a
// machine.
func (w *world) link(img host.Image) (entry string) {
	w.t.Helper()
	entry = filepath.Join(w.o.SmolvmHome, cacheDir, sumOf(w.t, img.Path))
	if err := os.MkdirAll(entry, 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Link(img.Path, filepath.Join(entry, cachedArchive)); err != nil {
		w.t.Fatal(err)
	}
	return entry
}

func (w *world) collect(used Used) Collected {
	w.t.Helper()
	out, err := w.Collect(w.t.Context(), func(context.Context) (Used, error) { return used, nil })
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// collector returns a world on a disk of 64 MiB with n archives of 8 MiB each,
// pulled a minute apart. change applies after that.
func collector(t *testing.T, n int, change ...func(o *Options)) (*world, []host.Image) {
	var root string
	w := newWorld(t, func(o *Options) {
		root = smallDisk(t, "96m") // one filesystem, so that links work
		o.Dir, o.SmolvmHome = filepath.Join(root, "images"), filepath.Join(root, "smolvm")
		for _, dir := range []string{o.Dir, o.SmolvmHome} {
			if err := os.Mkdir(dir, 0o711); err != nil {
				t.Fatal(err)
			}
		}
		o.GCHigh, o.GCLow = 60, 40
	})
	var images []host.Image
	for i := range n {
		w.reg.push(t, fmt.Sprintf("demo-%d:1", i), newImage(t, "amd64", noise(byte(i), 8<<20-4096)))
		images = append(images, w.want(w.request(fmt.Sprintf("demo-%d:1", i), "a")))
		w.clock.Step(time.Minute)
	}
	w.Close()
	resizeDisk(t, root, "64m") // a pull needs three times as much as an archive
	for _, c := range change {
		c(&w.o)
	}
	w.open()
	return w, images
}

func (w *world) remaining(images []host.Image) (left []int) {
	for i, img := range images {
		if exists(img.Path) {
			left = append(left, i)
		}
	}
	return left
}

func TestCollectRemovesLeastRecentlyUsed(t *testing.T) {
	w, images := collector(t, 6) // 48 of 64 MiB: 75 %
	w.clock.Step(time.Hour)
	w.want(w.request("demo-0:1", "b")) // now the most recently used
	w.clock.Step(time.Hour)
	linked := w.link(images[1])
	out := w.collect(Used{Digests: map[string]bool{images[2].Digest: true}})
	// To get down to 40 %, 25.6 MiB, it removes three: the oldest that nobody
	// uses.
	if got, want := w.remaining(images), []int{0, 2, 5}; !slices.Equal(got, want) {
		t.Errorf("left: got %v, want %v", got, want)
	}
	if exists(linked) {
		t.Error("smolvm's link to a removed archive: got it still there, want it removed")
	}
	if out.Archives != 3 || out.Cached != 1 || out.Bytes < 3*(8<<20-8192) {
		t.Errorf("got %+v, want 3 archives and one link", out)
	}
	if again := w.collect(Used{}); again != (Collected{}) {
		t.Errorf("below the high watermark: got %+v, want nothing removed", again)
	}
	// A removed image is pulled again.
	w.want(w.request("demo-1:1", "a"))
}

func TestCollectKeepsImagesInUse(t *testing.T) {
	w, images := collector(t, 6)
	// A machine of another owner was made from the first archive. smolvm's
	// cache keeps its bytes in any case.
	entry := w.link(images[0])
	w.clock.Step(time.Hour)
	used := Used{Digests: map[string]bool{}, Archives: map[string]bool{"local:" + filepath.Base(entry): true}}
	for _, img := range images[1:] {
		used.Digests[img.Digest] = true
	}
	out := w.collect(used)
	if out.Archives+out.Cached != 0 || len(w.remaining(images)) != 6 || !exists(entry) {
		t.Errorf("got %+v and %v left, want nothing removed", out, w.remaining(images))
	}
	// The use is 75 %, and should be 40 %.
	if out.Short < 22<<20 || out.Short > 23<<20 {
		t.Errorf("got %+v, want a shortage of 22 to 23 MiB", out)
	}
	_, err := w.Collect(t.Context(), func(context.Context) (Used, error) { return Used{}, errors.New("no answer") })
	if err == nil || len(w.remaining(images)) != 6 {
		t.Errorf("unknown use: got %v and %v left, want an error and nothing removed", err, w.remaining(images))
	}
}

func TestCollectKeepsYoungImages(t *testing.T) {
	w, images := collector(t, 6)
	w.clock.Step(5 * time.Minute) // the first is 11 minutes old, the second 10
	w.collect(Used{})
	if got, want := w.remaining(images), []int{2, 3, 4, 5}; !slices.Equal(got, want) {
		t.Errorf("left: got %v, want %v, which are younger than %v", got, want, DefaultGCMinAge)
	}
}

func TestSweepCache(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.GCHigh = 100 }) // so that the real disk does not matter
	w.reg.push(t, "demo:1", newImage(t, "amd64", "one"))
	img := w.want(w.request("demo:1", "a"))
	cache := filepath.Join(w.o.SmolvmHome, cacheDir)
	name := func(c byte) string {
		return filepath.Join(cache, string(slices.Repeat([]byte{c}, 64)))
	}
	linked := w.link(img)
	writeFile(t, filepath.Join(name('a'), cachedArchive), []byte("orphan"))
	writeFile(t, filepath.Join(name('b'), cachedArchive), []byte("of a machine"))
	writeFile(t, filepath.Join(name('c'), "archive.tar.tmp"), []byte("half"))
	// A copy of the archive rather than a link.
	data, err := os.ReadFile(img.Path)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(name('d'), cachedArchive), data)
	writeFile(t, filepath.Join(cache, "not-a-digest", "x"), []byte("?"))
	outside := filepath.Join(t.TempDir(), "outside")
	writeFile(t, outside, []byte("outside"))
	if err := os.Symlink(filepath.Dir(outside), name('e')); err != nil {
		t.Fatal(err)
	}
	used := Used{Archives: map[string]bool{filepath.Base(name('b')): true}}
	if out := w.collect(used); out != (Collected{}) {
		t.Errorf("young: got %+v, want nothing removed", out)
	}
	w.clock.Step(time.Hour)
	out := w.collect(used)
	if out.Cached != 2 || out.Archives != 0 || exists(name('a')) || exists(name('c')) {
		t.Errorf("got %+v, want the two orphans removed", out)
	}
	for _, kept := range []string{linked, name('b'), name('d'), name('e'), filepath.Join(cache, "not-a-digest"), outside, img.Path} {
		if !exists(kept) {
			t.Errorf("got %s removed, want it kept", kept)
		}
	}
}

// If the index is lost or broken, the archives are still found, with their
// modification times.
func TestRestartAndLostIndex(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.SmolvmHome = "" })
	digest := w.reg.push(t, "demo:1", newImage(t, "amd64", "one"))
	w.reg.push(t, "demo:2", newImage(t, "amd64", "two"))
	first := w.want(w.request("demo:1", "a"))
	w.want(w.request("demo:2", "a"))

	w.Close()
	w.reg.resetRequests()
	w.open()
	if got := w.want(w.request("demo:1", "a")); got != first || w.reg.count("") != 0 {
		t.Errorf("restarted: got %v and %v, want %v without the registry", got, w.reg.requests, first)
	}

	index := filepath.Join(w.o.Dir, indexFile)
	if info, err := os.Stat(index); err != nil || info.Mode() != 0o600 {
		t.Errorf("index: got %v %v, want mode 0600", info, err)
	}
	for what, lose := range map[string]func() error{
		"lost":      func() error { return os.Remove(index) },
		"truncated": func() error { return os.Truncate(index, 20) },
		"null":      func() error { return os.WriteFile(index, []byte(`{"key":"","references":null}`), 0o600) },
		"empty":     func() error { return os.Truncate(index, 0) },
	} {
		w.Close()
		if err := lose(); err != nil {
			t.Fatal(err)
		}
		w.open()
		req := w.request("demo:1", "a")
		req.Policy = host.PullNever
		if _, err := w.settle(req); !errors.Is(err, host.ErrNeverPull) {
			t.Errorf("%s, never: got %v, want ErrNeverPull, because it is not known who may have it", what, err)
		}
		before, err := os.Stat(first.Path)
		if err != nil {
			t.Fatal(err)
		}
		if got := w.want(w.request("demo:1", "a")); got.Digest != digest {
			t.Errorf("%s: got %v, want %s", what, got, digest)
		}
		after, err := os.Stat(first.Path)
		if err != nil || !os.SameFile(before, after) {
			t.Errorf("%s: got another file %v, want the same file, which may be linked into smolvm's cache", what, err)
		}
	}
}
