// SPDX-License-Identifier: Apache-2.0

package smolvm_test

import (
	"archive/tar"
	"io"
	"os"
	"path/filepath"
	"testing"

	"botbottle.dev/bottle-operator/hack/smolvm/realpack"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hostcontract"
)

// packedBy is the guest's image as an artifact.
func packedBy(t *testing.T, p host.Packer, f hostcontract.MachinesFixture) string {
	t.Helper()
	path := filepath.Join(f.Dir, "packed.smolmachine")
	if err := p.Pack(t.Context(), f.Image, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// realArtifact is the guest's image as an artifact for which no machine had to
// be booted; it asks for the whole network.
func realArtifact(t *testing.T, f hostcontract.MachinesFixture) string {
	t.Helper()
	path := filepath.Join(f.Dir, "packed.smolmachine")
	err := realpack.Write(path, realpack.Pack{
		Env: []string{"PACKED=1", "PLAIN=packed"}, Cmd: []string{"/bin/sh", "-c", "sleep 1000000"}, CPUs: 2, MemoryMiB: 512, Network: true,
		Layer: onlyLayer(t, f.Image),
	})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// onlyLayer is the one layer of an archive.
func onlyLayer(t *testing.T, archive string) []byte {
	t.Helper()
	file, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for r := tar.NewReader(file); ; {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("layer of %s: %v", archive, err)
		}
		if filepath.Base(h.Name) == "layer.tar" {
			layer, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			return layer
		}
	}
}
