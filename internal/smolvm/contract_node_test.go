// SPDX-License-Identifier: Apache-2.0

//go:build node

package smolvm_test

import (
	"context"
	"sync"
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hostcontract"
	"botbottle.dev/bottle-operator/internal/machinesize"
	"botbottle.dev/bottle-operator/test/require"
)

// TestNode runs the whole contract on a node where smolvm can boot machines. It
// is compiled with the build tag and copied to the node: see test/real.
func TestNode(t *testing.T) {
	dir := require.Env(t, "HOSTCONTRACT_SMOLVM_DIR", "the installation of smolvm on this node")
	hostcontract.TestMachines(t, func(t *testing.T) hostcontract.MachinesFixture {
		// An emulated node boots one machine at a time.
		f := fixture(t, dir)
		f.Machines = &serialStarts{Machines: f.Machines}
		f.Size = machinesize.Size{CPUs: 1, MemoryMiB: 256}
		f.Artifact = func(t *testing.T) string { return realArtifact(t, f) }
		return f
	}, hostcontract.MachineOptions{})
}

// serialStarts starts one machine at a time, all that an emulated node can do.
type serialStarts struct {
	host.Machines
	mu sync.Mutex
}

func (s *serialStarts) StartMachine(ctx context.Context, name, netns string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Machines.StartMachine(ctx, name, netns)
}
