// SPDX-License-Identifier: Apache-2.0

package smolvm_test

import (
	"path/filepath"
	"testing"

	"botbottle.dev/bottle-operator/hack/smolvm/realpack"
	"botbottle.dev/bottle-operator/internal/host/hostcontract"
)

// pack converts the guest's image into an artifact with this world's smolvm,
// which must be the stand-in. A real smolvm cannot read the result.
func (w *world) pack(t *testing.T, f hostcontract.MachinesFixture) string {
	t.Helper()
	program := filepath.Join(f.Dir, "packed")
	w.call(t, "pack", "create", "--image="+f.Image, "--output="+program)
	return program + ".smolmachine"
}

// realArtifact writes the guest's image as an artifact that a real smolvm can
// read, without booting a machine. The artifact requests the whole network.
func realArtifact(t *testing.T, f hostcontract.MachinesFixture) string {
	t.Helper()
	path := filepath.Join(f.Dir, "packed.smolmachine")
	layer, err := realpack.OnlyLayer(f.Image)
	if err != nil {
		t.Fatal(err)
	}
	err = realpack.Write(path, realpack.Pack{
		Env: []string{"PACKED=1", "PLAIN=packed"}, Cmd: []string{"/bin/sh", "-c", "sleep 1000000"}, CPUs: 2, MemoryMiB: 512, Network: true,
		Layer: layer,
	})
	if err != nil {
		t.Fatal(err)
	}
	return path
}
