// SPDX-License-Identifier: Apache-2.0

//go:build node

package smolvm_test

import (
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hostcontract"
	"botbottle.dev/bottle-operator/internal/smolvm"
	"botbottle.dev/bottle-operator/test/require"
)

// TestNode is the whole contract on a node where smolvm boots. Compiled with
// the tag it is copied there and runs by itself: see test/real.
func TestNode(t *testing.T) {
	dir := require.Env(t, "HOSTCONTRACT_SMOLVM_DIR", "the installation of smolvm on this node")
	hostcontract.TestMachines(t, func(t *testing.T) hostcontract.MachinesFixture {
		// A node that is emulated boots one at a time.
		f := fixtureOf(t, newWorld(t, dir, func(o *smolvm.Options) { o.MaxConcurrentStarts = 1 }))
		f.Size = host.MachineSpec{CPUs: 1, MemoryMiB: 256}
		f.Artifact = func(t *testing.T) string { return realArtifact(t, f) }
		return f
	}, hostcontract.MachineOptions{})
}
