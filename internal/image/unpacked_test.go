// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// unpack is what smolvm does at a create: the artifact into its shared folder,
// and word of that in the machine's own.
func (w *world) unpack(machine, checksum string, img host.Image) {
	w.t.Helper()
	home := filepath.Join(w.o.SmolvmHome, machinesDir)
	shared := filepath.Join(home, unpackedDir, checksum)
	writeFile(w.t, filepath.Join(shared, "layers", "x"), []byte("x"))
	writeFile(w.t, shared+unpackedSum, []byte(sumOf(w.t, img.Path)+"\n"))
	writeFile(w.t, filepath.Join(home, machine, unpackedUse), []byte(shared))
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

// What smolvm unpacked stays while a machine is made of it, and while another
// may be about to be.
func TestCollectsWhatIsUnpacked(t *testing.T) {
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
	writeFile(t, filepath.Join(w.o.SmolvmHome, machinesDir, unpackedDir, "0000000c", "x"), nil) // of a release that says no sum
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

	// Nothing goes where it is not known what is in use.
	bad := filepath.Join(w.o.SmolvmHome, machinesDir, "machine-2", unpackedUse)
	writeFile(t, bad, make([]byte, maxUseBytes+1))
	if _, err := w.Collect(t.Context(), func(context.Context) (Used, error) { return Used{}, nil }); err == nil {
		t.Error("a machine that cannot be read: got no error, want one")
	}
	w.wantUnpacked("a machine that cannot be read", "0000000b", "0000000c")
}
