// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

// unpack does what smolvm does when it creates a machine: it unpacks the
// artifact into the shared folder and records that in the machine's own folder.
func (w *world) unpack(machine, checksum string, img host.Image) {
	w.t.Helper()
	home := filepath.Join(w.o.SmolvmHome, machinesDir)
	shared := filepath.Join(home, unpackedDir, checksum)
	writeFile(w.t, filepath.Join(shared, "layers", "x"), []byte("x"))
	writeFile(w.t, shared+sumSuffix, []byte(sumOf(w.t, img.Path)+"\n"))
	writeFile(w.t, shared+".lock", nil)
	writeFile(w.t, filepath.Join(home, machine, useFile), []byte(shared))
}

func (w *world) unpacked() (names []string) {
	w.t.Helper()
	entries, err := os.ReadDir(filepath.Join(w.o.SmolvmHome, machinesDir, unpackedDir))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

func (w *world) wantUnpacked(what string, want ...string) {
	w.t.Helper()
	if got := w.unpacked(); !slices.Equal(got, want) {
		w.t.Errorf("%s: got %v unpacked, want %v", what, got, want)
	}
}

// An unpacked artifact stays while a machine is made from it, and while the
// artifact is in the store, because another machine may be about to be made
// from it.
func TestSweepUnpacked(t *testing.T) {
	w := newWorld(t)
	var images []host.Image
	for _, name := range []string{"a", "b"} {
		w.put(name+".smolmachine", []byte(name))
		req := local(name + ".smolmachine")
		req.Artifact = true
		images = append(images, w.want(req))
	}
	w.unpack("machine-1", "0000000a", images[0])
	w.unpack("machine-2", "0000000b", images[1])
	writeFile(t, filepath.Join(w.o.SmolvmHome, machinesDir, unpackedDir, "0000000c", "x"), nil) // from a release that writes no sum
	w.clock.Step(time.Hour)
	w.collect(Used{})
	w.wantUnpacked("all in use", "0000000a", "0000000b", "0000000c")

	if err := os.RemoveAll(filepath.Join(w.o.SmolvmHome, machinesDir, "machine-1")); err != nil {
		t.Fatal(err)
	}
	w.collect(Used{})
	w.wantUnpacked("without its machine", "0000000a", "0000000b", "0000000c")

	for _, img := range images {
		if err := os.Remove(img.Path); err != nil {
			t.Fatal(err)
		}
	}
	if out := w.collect(Used{}); out.Cached != 1 {
		t.Errorf("got %+v, want one removed", out)
	}
	w.wantUnpacked("without its artifact", "0000000b", "0000000c")

	// The files beside the folder stay, above all the lock.
	if shared := filepath.Join(w.o.SmolvmHome, machinesDir, unpackedDir, "0000000a"); !exists(shared+sumSuffix) || !exists(shared+".lock") {
		t.Error("got the folder's lock or sum removed, want them kept")
	}
}

// A VMM that broke out of its machine controls the machine's folder. If it is
// not known what is in use, no unpacked artifact is removed, and the rest of
// the pass goes on.
func TestCollectContinuesPastUnreadableUseFile(t *testing.T) {
	for what, plant := range map[string]func(path string) error{
		"too long": func(path string) error { return os.WriteFile(path, make([]byte, maxUseBytes+1), 0o600) },
		"FIFO":     func(path string) error { return unix.Mkfifo(path, 0o600) },
		"folder":   func(path string) error { return os.Mkdir(path, 0o700) },
		"outside":  func(path string) error { return os.Symlink("/etc/passwd", path) },
		"loop":     func(path string) error { return os.Symlink(useFile, path) },
		"sparse": func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 256<<20))
		},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			w.put("a.smolmachine", []byte("a"))
			req := local("a.smolmachine")
			req.Artifact = true
			img := w.want(req)
			w.unpack("machine-1", "0000000a", img)
			w.unpack("machine-2", "0000000b", img)
			usePath := filepath.Join(w.o.SmolvmHome, machinesDir, "machine-1", useFile)
			orphan := filepath.Join(w.o.SmolvmHome, cacheDir, strings.Repeat("a", 64))
			writeFile(t, filepath.Join(orphan, cachedArchive), []byte("orphan"))
			if err := errors.Join(os.Remove(img.Path), os.Remove(usePath), plant(usePath)); err != nil {
				t.Fatal(err)
			}
			w.clock.Step(time.Hour)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := w.collectInTime()
			runtime.ReadMemStats(&after)
			if err == nil || !strings.Contains(err.Error(), useFile) {
				t.Errorf("got %v, want an error that names the file", err)
			}
			if got := after.TotalAlloc - before.TotalAlloc; got > 64<<20 {
				t.Errorf("got %d bytes allocated, want the file not read", got)
			}
			w.wantUnpacked(what, "0000000a", "0000000b")
			if exists(orphan) {
				t.Error("got smolvm's cache not swept, want it swept")
			}
			// Once the machine is removed, all use is known.
			if err := os.RemoveAll(filepath.Dir(usePath)); err != nil {
				t.Fatal(err)
			}
			w.collect(Used{})
			w.wantUnpacked("without it", "0000000b")
		})
	}
}

// collectInTime fails the test if Collect does not return.
func (w *world) collectInTime() error {
	w.t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := w.Collect(w.t.Context(), func(context.Context) (Used, error) { return Used{}, nil })
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(30 * time.Second):
		w.t.Fatal("Collect did not return within 30 s")
		return nil
	}
}
