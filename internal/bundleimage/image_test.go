// SPDX-License-Identifier: Apache-2.0

package bundleimage

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/client"
)

// program writes a small ELF file with one program header and returns its path.
func program(t *testing.T, machine elf.Machine, segment elf.ProgType, content string) string {
	t.Helper()
	var b bytes.Buffer
	header := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT),
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	segmentHeader := elf.Prog64{Type: uint32(segment), Off: 120, Filesz: uint64(len(content)), Memsz: uint64(len(content))}
	for _, part := range []any{header, segmentHeader, []byte(content)} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return file(t, b.Bytes())
}

func file(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestExecutableRefused(t *testing.T) {
	for name, tt := range map[string]struct{ path, want string }{
		"dynamically linked": {program(t, elf.EM_X86_64, elf.PT_INTERP, "/lib64/ld-linux-x86-64.so.2\x00"), `dynamically linked (it needs "/lib64/ld-linux-x86-64.so.2")`},
		"script":             {file(t, []byte("#!/bin/sh\n")), "is not a Linux executable"},
		"absent":             {filepath.Join(t.TempDir(), "none"), "no such file"},
		"another machine":    {program(t, elf.EM_RISCV, elf.PT_LOAD, "code"), "EM_RISCV"},
	} {
		if _, err := New(tt.path); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, tt.want)
		}
	}
}

func TestArchive(t *testing.T) {
	path := program(t, elf.EM_AARCH64, elf.PT_LOAD, "code")
	im := newImage(t, path)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := im.Reference(), "botbottle.dev/bundle:"+sum(content)[:12]; got != want {
		t.Errorf("reference: got %q, want %q", got, want)
	}
	files := readTar(t, archive(t, im))
	var manifest []struct {
		Config           string
		RepoTags, Layers []string
	}
	decode(t, files["manifest.json"], &manifest)
	if len(manifest) != 1 || len(manifest[0].Layers) != 1 {
		t.Fatalf("manifest: got %+v, want one image with one layer", manifest)
	}
	m := manifest[0]
	if diff := cmp.Diff([]string{im.Reference()}, m.RepoTags); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	if got, want := m.Config, sum(files[m.Config])+".json"; got != want {
		t.Errorf("config's name: got %q, want its digest %q", got, want)
	}
	var got config
	decode(t, files[m.Config], &got)
	want := imageConfig("arm64", "sha256:"+sum(files[m.Layers[0]]))
	want.Config.User = "65532:65532"
	want.Config.Entrypoint = []string{"/bottle-bundle", "--rules", "/etc/bottle/egress.json", "--secrets-dir", "/run/bottle-broker", "--upstream-ca", "/etc/bottle/upstream-ca.pem"}
	want.Config.ExposedPorts = map[string]struct{}{"8888/tcp": {}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	layer := readTar(t, files[m.Layers[0]])
	if !bytes.Equal(layer["bottle-bundle"], content) {
		t.Error("executable in the layer: got other bytes than the file's")
	}
	for _, dir := range []string{"etc/", "etc/bottle/", "run/", "run/bottle-broker/"} {
		if _, ok := layer[dir]; !ok || len(layer) != 5 {
			t.Errorf("layer: got %d entries, want 5 with %s", len(layer), dir)
		}
	}
}

func TestSameExecutableSameImage(t *testing.T) {
	path := program(t, elf.EM_X86_64, elf.PT_LOAD, "code")
	a, b := archive(t, newImage(t, path)), archive(t, newImage(t, path))
	if !bytes.Equal(a, b) {
		t.Error("archives of one executable: got different bytes")
	}
	other := newImage(t, program(t, elf.EM_X86_64, elf.PT_LOAD, "edoc"))
	if other.Reference() == newImage(t, path).Reference() {
		t.Error("references of two executables: got the same")
	}
}

func TestExecutableChanges(t *testing.T) {
	path := program(t, elf.EM_X86_64, elf.PT_LOAD, "code")
	im := newImage(t, path)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, changed := range [][]byte{bytes.Replace(content, []byte("code"), []byte("edoc"), 1), content[:130-8]} {
		if err := os.WriteFile(path, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := im.WriteArchive(io.Discard); !errors.Is(err, errChanged) {
			t.Errorf("write: got %v, want %v", err, errChanged)
		}
	}
}

// fakeDocker records what was loaded into it.
type fakeDocker struct {
	layers []string // of the loaded image; nil for none
	answer string
	stop   int64 // stops reading after this many bytes; 0 reads all
	loads  int
}

func (f *fakeDocker) ImageInspect(context.Context, string, ...client.ImageInspectOption) (client.ImageInspectResult, error) {
	if f.layers == nil {
		return client.ImageInspectResult{}, errdefs.ErrNotFound
	}
	return client.ImageInspectResult{InspectResponse: image.InspectResponse{RootFS: image.RootFS{Layers: f.layers}}}, nil
}

func (f *fakeDocker) ImageLoad(_ context.Context, r io.Reader, _ ...client.ImageLoadOption) (client.ImageLoadResult, error) {
	f.loads++
	if f.stop > 0 {
		_, _ = io.CopyN(io.Discard, r, f.stop)
		return nil, errors.New("no space left on device")
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	if f.answer == "" {
		sums := strings.SplitN(string(b[strings.Index(string(b), "diff_ids"):]), `"`, 4)
		f.layers = []string{sums[2]}
	}
	return io.NopCloser(strings.NewReader(f.answer)), nil
}

func TestEnsure(t *testing.T) {
	im := newImage(t, program(t, elf.EM_X86_64, elf.PT_LOAD, "code"))
	docker := &fakeDocker{}
	for range 2 {
		if err := im.Ensure(t.Context(), docker); err != nil {
			t.Fatalf("ensure: got %v, want nil", err)
		}
	}
	if docker.loads != 1 {
		t.Errorf("loads: got %d, want 1 for two calls", docker.loads)
	}
	docker.layers = []string{"sha256:somebody-elses"}
	if err := im.Ensure(t.Context(), docker); err != nil || docker.loads != 2 {
		t.Errorf("image with other content: got %d loads, %v, want it loaded again", docker.loads, err)
	}
	for name, tt := range map[string]struct {
		docker *fakeDocker
		want   string
	}{
		"error in the answer": {&fakeDocker{answer: `{"stream":"x"}{"errorDetail":{"message":"bad"},"error":"bad tar"}`}, "bad tar"},
		"ends early":          {&fakeDocker{stop: 10}, "no space left"},
		"missing after load":  {&fakeDocker{answer: `{"stream":"Loaded"}`}, "does not have it"},
		"garbled answer":      {&fakeDocker{answer: `{"str`}, "read docker's answer"},
	} {
		if err := im.Ensure(t.Context(), tt.docker); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, tt.want)
		}
	}
}

func newImage(t *testing.T, path string) *Image {
	t.Helper()
	im, err := New(path)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func archive(t *testing.T, im *Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := im.WriteArchive(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func readTar(t *testing.T, b []byte) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 0 {
			t.Errorf("%s: got owner %d:%d and time %s, want root's at 0", h.Name, h.Uid, h.Gid, h.ModTime)
		}
		if out[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func decode(t *testing.T, b []byte, to any) {
	t.Helper()
	if err := json.Unmarshal(b, to); err != nil {
		t.Fatalf("%q: %v", b, err)
	}
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
