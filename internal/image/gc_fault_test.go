// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// An archive that cannot be removed stops neither the removal of others nor the
// rest of the pass.
func TestCollectContinuesPastUnremovableArchive(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m, err := NewMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	w, images := collector(t, 6, func(o *Options) { o.Metrics = m })
	w.clock.Step(time.Hour)
	// It cannot be renamed, because a folder has the new name.
	writeFile(t, filepath.Join(w.o.Dir, tempPrefix+filepath.Base(images[0].Path), "x"), nil)
	// The next one can be renamed, but not unlinked.
	w.unlink = func(path string) error {
		if strings.Contains(path, filepath.Base(images[1].Path)) {
			return errors.New("no luck")
		}
		return os.Remove(path)
	}
	orphan := filepath.Join(w.o.SmolvmHome, cacheDir, strings.Repeat("a", 64))
	writeFile(t, filepath.Join(orphan, cachedArchive), []byte("orphan"))
	w.unpack("machine-1", "0000000a", images[5])
	if err := os.RemoveAll(filepath.Join(w.o.SmolvmHome, machinesDir, "machine-1")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(w.o.Dir, indexFile)); err != nil {
		t.Fatal(err)
	}
	out, err := w.Collect(t.Context(), func(context.Context) (Used, error) { return Used{}, nil })
	for _, want := range []string{images[0].Digest, images[1].Digest, "no luck"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
	if got, want := w.remaining(images), []int{0, 5}; !slices.Equal(got, want) || out.Archives != 4 {
		t.Errorf("got %+v and %v left, want %v", out, got, want)
	}
	if exists(orphan) || len(w.unpacked()) != 0 || !exists(filepath.Join(w.o.Dir, indexFile)) {
		t.Error("got orphans left or no index saved, want everything swept and the index saved")
	}
	got := gatherMetrics(t, reg)
	if got["collect_failures_total"] != 2 || got["archives"] != 2 || got["collected_bytes_total"] != float64(out.Bytes) || got["collect_short_bytes"] != 0 {
		t.Errorf("got %v, want 2 failures, 2 archives and %d bytes", got, out.Bytes)
	}
}

// Archives that are not known to be unused stay, and the rest of the pass goes
// on.
func TestCollectContinuesPastUnreadableCache(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m, err := NewMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	w, images := collector(t, 6, func(o *Options) { o.Metrics = m })
	w.clock.Step(time.Hour)
	writeFile(t, filepath.Join(w.o.SmolvmHome, cacheDir), []byte("no folder"))
	w.unpack("machine-1", "0000000a", images[5])
	if err := os.RemoveAll(filepath.Join(w.o.SmolvmHome, machinesDir, "machine-1")); err != nil {
		t.Fatal(err)
	}
	out, err := w.Collect(t.Context(), func(context.Context) (Used, error) { return Used{}, nil })
	if err == nil || out.Archives != 0 || len(w.remaining(images)) != 6 {
		t.Errorf("got %+v, %v and %v left, want an error and no image removed", out, err, w.remaining(images))
	}
	if out.Cached != 1 || len(w.unpacked()) != 0 {
		t.Errorf("got %+v, want the unpacked artifact removed", out)
	}
	index := filepath.Join(w.o.Dir, indexFile)
	if err := os.Remove(index); err != nil {
		t.Fatal(err)
	}
	_, err = w.Collect(t.Context(), func(context.Context) (Used, error) { return Used{}, errors.New("no answer") })
	if err == nil || !exists(index) {
		t.Errorf("got %v, want an error, and the index saved", err)
	}
	if got := gatherMetrics(t, reg)["collect_failures_total"]; got != 2 {
		t.Errorf("got %v failures, want 2", got)
	}
}

// A pass may fail on thousands of files.
func TestCollectErrorsAreBounded(t *testing.T) {
	c := &collection{}
	c.addError(nil)
	if err := c.err(); err != nil {
		t.Errorf("got %v, want nil", err)
	}
	for range 1000 {
		c.addError(errors.New("read only"))
	}
	if got := strings.Split(c.err().Error(), "\n"); len(got) != maxErrs+1 || got[maxErrs] != "and 992 more" {
		t.Errorf("got %q, want %d errors and how many more", got, maxErrs)
	}
}

// Unlinking gigabytes takes long. Images must be available meanwhile.
func TestUnlinkHoldsNoLock(t *testing.T) {
	w, images := collector(t, 6)
	w.clock.Step(time.Hour)
	unlinked := 0
	w.unlink = func(path string) error {
		unlinked++
		if name := filepath.Base(path); !strings.HasPrefix(name, tempPrefix) || storedName.MatchString(name) {
			t.Errorf("got %s unlinked, want a temporary name", name)
		}
		got := make(chan error, 1)
		go func() {
			_, err := w.Get(t.Context(), w.request("demo-5:1", "b"))
			got <- err
		}()
		select {
		case err := <-got:
			if err != nil {
				t.Errorf("while it unlinks: got %v, want an image", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("while it unlinks: got no answer in 10 s, want an image")
		}
		return nil // leaves the file, as if the agent died here
	}
	w.collect(Used{})
	if got, want := w.remaining(images), []int{3, 4, 5}; !slices.Equal(got, want) || unlinked != 3 {
		t.Errorf("got %d unlinked and %v left, want %v", unlinked, got, want)
	}
	w.Close()
	w.open()
	w.wantClean()
}
