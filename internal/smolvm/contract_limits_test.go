// SPDX-License-Identifier: Apache-2.0

package smolvm_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/hack/smolvm/realpack"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/machinesize"
	"botbottle.dev/bottle-operator/internal/runner"
	"botbottle.dev/bottle-operator/internal/smolvm"
	"botbottle.dev/bottle-operator/test/require"
)

// eachWithArtifacts runs the test with every command line that can make machines
// from artifacts: the stand-in's and the real one's. write writes an artifact in
// the form that the command line reads.
func eachWithArtifacts(t *testing.T, test func(t *testing.T, dir string, write writePack)) {
	for _, version := range []string{"1.7.7", "1.9.1", "1.32.2"} {
		t.Run("standin-"+version, func(t *testing.T) { test(t, standin(t, version), realpack.WriteStandin) })
	}
	for _, version := range realReleases() {
		t.Run(version, func(t *testing.T) {
			dir := filepath.Join(pathFromEnv(t, "SMOLVM_VERSIONS_DIR", "bin/smolvm"), version)
			require.File(t, filepath.Join(dir, "smolvm"), "make smolvm")
			test(t, dir, realpack.Write)
		})
	}
}

type writePack func(path string, p realpack.Pack) error

func (w writePack) to(t *testing.T, path string, p realpack.Pack) {
	t.Helper()
	if err := w(path, p); err != nil {
		t.Fatal(err)
	}
}

// layerOf returns a layer with one file of zeros.
func layerOf(t *testing.T, size int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: "zeros", Mode: 0o644, Size: int64(size)})
	if err == nil {
		_, err = w.Write(make([]byte, size))
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// specFor returns the spec of a machine made from the artifact.
func specFor(w *world, artifact string) host.MachineSpec {
	return host.MachineSpec{
		Owner:     host.Owner{UID: "0f3c1b2a-1111-2222-3333-444455556666", Namespace: "default", Name: "demo", Slug: "demo", Cluster: "c", Node: "n"},
		Artifact:  artifact,
		AllowCIDR: netip.MustParsePrefix("192.168.44.2/32"),
		Size:      machinesize.Size{CPUs: 2, MemoryMiB: 512},
	}
}

// wantNothing checks that the machine left nothing on the node.
func (w *world) wantNothing(t *testing.T, name string) {
	t.Helper()
	machines, err := w.driver.ListMachines(t.Context())
	if err != nil || len(machines) > 0 {
		t.Errorf("machines: got %v, %v, want none", machines, err)
	}
	if left := w.left(t, name); len(left) > 0 {
		t.Errorf("left of the machine: got %q, want nothing", left)
	}
}

// TestArtifactAsksForMore checks that no machine is left of an artifact whose
// manifest asks for more than the Bottle, and that the same artifact without that
// is accepted.
func TestArtifactAsksForMore(t *testing.T) {
	eachWithArtifacts(t, func(t *testing.T, dir string, write writePack) {
		w := newWorld(t, dir, nil)
		for i, tt := range []struct {
			pack realpack.Pack
			size machinesize.Size
			want string
		}{
			{realpack.Pack{CPUs: 64, MemoryMiB: 1 << 20}, machinesize.Size{CPUs: 2, MemoryMiB: 512}, ""},
			{realpack.Pack{CPUs: 4, MemoryMiB: 8192}, machinesize.Size{}, ""},
			{realpack.Pack{CPUs: 2, MemoryMiB: 512, GPU: true}, machinesize.Size{CPUs: 2, MemoryMiB: 512}, "gpu: true"},
			{realpack.Pack{CPUs: 64, MemoryMiB: 512}, machinesize.Size{}, "cpus: got 64, want at most smolvm's default"},
			{realpack.Pack{CPUs: 2, MemoryMiB: 1 << 20}, machinesize.Size{}, "memory_mib: got 1048576, want at most smolvm's default"},
		} {
			tt.pack.Layer = layerOf(t, 10)
			path := filepath.Join(w.dir, fmt.Sprintf("%d.smolmachine", i))
			write.to(t, path, tt.pack)
			spec := specFor(w, path)
			spec.Size = tt.size
			err := w.driver.CreateMachine(t.Context(), spec)
			if tt.want == "" {
				if err != nil {
					t.Errorf("%+v: got %v, want it accepted", tt.size, err)
				}
				if err := w.driver.DeleteMachine(t.Context(), spec.Owner.ID()); err != nil {
					t.Fatal(err)
				}
				continue
			}
			if !errors.Is(err, host.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q in it", err, tt.want)
			}
			w.wantNothing(t, spec.Owner.ID())
		}
	})
}

// TestDefaultFlagIgnored checks the releases that ignore a flag with their default
// value: the artifact's own number then counts, and the machine is refused.
func TestDefaultFlagIgnored(t *testing.T) {
	eachWithArtifacts(t, func(t *testing.T, dir string, write writePack) {
		w := newWorld(t, dir, nil)
		path := filepath.Join(w.dir, "x.smolmachine")
		write.to(t, path, realpack.Pack{CPUs: 64, MemoryMiB: 512, Layer: layerOf(t, 10)})
		spec := specFor(w, path)
		spec.Size = machinesize.Size{CPUs: 4, MemoryMiB: 512}
		err := w.driver.CreateMachine(t.Context(), spec)
		if v, _ := w.driver.Version(t.Context()); v.Version == "1.32.2" {
			if err != nil {
				t.Errorf("got %v, want it accepted", err)
			}
			return
		}
		if !errors.Is(err, host.ErrInvalid) || !strings.Contains(err.Error(), "cpus: got 64, want 4") {
			t.Errorf("got %v, want that 64 CPUs are refused", err)
		}
		w.wantNothing(t, spec.Owner.ID())
	})
}

// TestArtifactUnpacksToTooMuch checks that a small artifact that unpacks to more
// than is allowed leaves nothing on the disk, and that one that unpacks to less is
// accepted.
func TestArtifactUnpacksToTooMuch(t *testing.T) {
	eachWithArtifacts(t, func(t *testing.T, dir string, write writePack) {
		w := newWorld(t, dir, func(o *smolvm.Options) { o.MaxImageBytes = 4 << 20 })
		path := filepath.Join(w.dir, "bomb.smolmachine")
		write.to(t, path, realpack.Pack{CPUs: 1, MemoryMiB: 512, Layer: layerOf(t, 24<<20)})
		spec := specFor(w, path)
		err := w.driver.CreateMachine(t.Context(), spec)
		if !errors.Is(err, host.ErrInvalid) || !strings.Contains(err.Error(), "--image-max-bytes") || !strings.Contains(err.Error(), "4 MiB") {
			t.Errorf("got %v, want that it names the limit and the flag", err)
		}
		if strings.Contains(fmt.Sprint(err), w.home) {
			t.Errorf("got %v, want no path of the node in it", err)
		}
		w.wantNothing(t, spec.Owner.ID())
		if used := diskUse(t, w.home); used > 3<<20 {
			t.Errorf("disk: got %d bytes in use, want next to none", used)
		}
		write.to(t, path, realpack.Pack{CPUs: 1, MemoryMiB: 512, Layer: layerOf(t, 2<<20)})
		if err := w.driver.CreateMachine(t.Context(), spec); err != nil {
			t.Errorf("2 MiB: got %v, want it accepted", err)
		}
	})
}

// diskUse returns how much of the disk the files below dir take.
func diskUse(t *testing.T, dir string) int64 {
	t.Helper()
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil {
			sum += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// slowUnpack is a runner whose creations from artifacts wait for release.
type slowUnpack struct {
	runner.Exec
	waiting, release chan struct{}
}

func (s slowUnpack) Run(ctx context.Context, c runner.Command) (runner.Result, error) {
	if slices.ContainsFunc(c.Args, func(a string) bool { return strings.HasPrefix(a, "--from=") }) {
		s.waiting <- struct{}{}
		select {
		case <-s.release:
		case <-ctx.Done():
			return runner.Result{}, ctx.Err()
		}
	}
	return s.Exec.Run(ctx, c)
}

// TestUnpackingBlocksNoOtherMachine checks that other machines can be created and deleted
// while an artifact is being unpacked.
func TestUnpackingBlocksNoOtherMachine(t *testing.T) {
	eachWithArtifacts(t, func(t *testing.T, dir string, write writePack) {
		slow := slowUnpack{waiting: make(chan struct{}, 1), release: make(chan struct{})}
		w := newWorld(t, dir, func(o *smolvm.Options) { o.Runner = slow })
		path := filepath.Join(w.dir, "x.smolmachine")
		write.to(t, path, realpack.Pack{CPUs: 2, MemoryMiB: 512, Layer: layerOf(t, 10)})
		created := make(chan error, 1)
		go func() { created <- w.driver.CreateMachine(t.Context(), specFor(w, path)) }()
		select {
		case <-slow.waiting:
		case err := <-created:
			t.Fatalf("got %v, want the create to wait", err)
		}

		smolfile := filepath.Join(w.dir, "Smolfile")
		if err := os.WriteFile(smolfile, []byte("[network]\nallow_cidrs = [\"192.168.45.2/32\"]\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		other := specFor(w, "")
		other.AllowCIDR, other.Smolfile, other.Owner.UID = netip.Prefix{}, smolfile, "1f3c1b2a-1111-2222-3333-444455556666"
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		if err := w.driver.CreateMachine(ctx, other); err != nil {
			t.Errorf("create another machine: got %v, want nil", err)
		}
		if err := w.driver.DeleteMachine(ctx, other.Owner.ID()); err != nil {
			t.Errorf("delete it: got %v, want nil", err)
		}
		close(slow.release)
		if err := <-created; err != nil {
			t.Errorf("the artifact: got %v, want nil", err)
		}
	})
}

// TestImageLargerThanItsDisk checks that the machine is not created.
func TestImageLargerThanItsDisk(t *testing.T) {
	eachWithArtifacts(t, func(t *testing.T, dir string, _ writePack) {
		w := newWorld(t, dir, nil)
		image := sparseImage(t, w.dir, 3<<30)
		spec := specFor(w, "")
		spec.AllowCIDR, spec.Image, spec.Smolfile = netip.Prefix{}, image, filepath.Join(w.dir, "Smolfile")
		if err := os.WriteFile(spec.Smolfile, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		spec.StorageGiB = 2
		err := w.driver.CreateMachine(t.Context(), spec)
		if !errors.Is(err, host.ErrDiskTooSmall) || !strings.Contains(err.Error(), "3 GiB") || !strings.Contains(err.Error(), "spec.machine.storage is 2 GiB") {
			t.Errorf("got %v, want that the field and both sizes are named", err)
		}
		w.wantNothing(t, spec.Owner.ID())
	})
}

// sparseImage writes an image archive with one file of size bytes, which takes no
// room on the disk.
func sparseImage(t *testing.T, dir string, size int64) string {
	t.Helper()
	name := filepath.Join(dir, "image.tar")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	manifest := `[{"Config":"c.json","RepoTags":null,"Layers":["l/layer.tar"]}]`
	w := tar.NewWriter(f)
	write := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []struct{ name, content string }{{"manifest.json", manifest}, {"c.json", "{}"}} {
		write(w.WriteHeader(&tar.Header{Name: file.name, Mode: 0o644, Size: int64(len(file.content))}))
		_, err := w.Write([]byte(file.content))
		write(err)
	}
	write(w.WriteHeader(&tar.Header{Name: "l/layer.tar", Mode: 0o644, Size: 512 + size + 1024, Format: tar.FormatGNU}))
	var inner bytes.Buffer
	write(tar.NewWriter(&inner).WriteHeader(&tar.Header{Name: "zeros", Mode: 0o644, Size: size, Format: tar.FormatGNU}))
	_, err = w.Write(inner.Bytes())
	write(err)
	at, err := f.Seek(0, 1)
	write(err)
	write(f.Truncate(at + size + 1024 + 1024))
	write(os.Chmod(name, 0o644))
	return name
}

// TestLongImageAboveSmolvmsLimit creates machines from an archive of more than
// 8 GiB, which smolvm hashes. It has holes, so it takes no room on the disk.
func TestLongImageAboveSmolvmsLimit(t *testing.T) {
	require.Long(t)
	eachWithArtifacts(t, func(t *testing.T, dir string, _ writePack) {
		for limit, want := range map[int64]error{8 << 30: host.ErrInvalid, 16 << 30: nil} {
			w := newWorld(t, dir, func(o *smolvm.Options) { o.MaxImageBytes = limit })
			spec := specFor(w, "")
			spec.AllowCIDR, spec.Image, spec.Smolfile = netip.Prefix{}, sparseImage(t, w.dir, 8<<30), filepath.Join(w.dir, "Smolfile")
			if err := os.WriteFile(spec.Smolfile, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := w.driver.CreateMachine(t.Context(), spec); !errors.Is(err, want) {
				t.Errorf("limit of %d bytes: got %v, want %v", limit, err, want)
			}
		}
	})
}

// TestDeviceAtStart checks that a machine with a device that no Bottle asks for is
// not started, even if this Driver did not create it.
func TestDeviceAtStart(t *testing.T) {
	eachWithArtifacts(t, func(t *testing.T, dir string, write writePack) {
		w := newWorld(t, dir, nil)
		path := filepath.Join(w.dir, "x.smolmachine")
		write.to(t, path, realpack.Pack{CPUs: 2, MemoryMiB: 512, GPU: true, Layer: layerOf(t, 10)})
		name := specFor(w, path).Owner.ID()
		if _, err := w.driver.ListMachines(t.Context()); err != nil { // makes the home
			t.Fatal(err)
		}
		w.call(t, "machine", "create", "--name="+name, "--from="+path, "--net")
		err := w.driver.StartMachine(t.Context(), name, "")
		if !errors.Is(err, host.ErrInvalid) || !strings.Contains(err.Error(), "gpu: true") {
			t.Errorf("start: got %v, want that the GPU is refused", err)
		}
		if err := w.driver.DeleteMachine(t.Context(), name); err != nil {
			t.Errorf("delete: got %v, want nil", err)
		}
	})
}
