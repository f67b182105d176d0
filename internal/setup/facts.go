// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"botbottle.dev/bottle-operator/internal/docker"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/smolvm"
)

// nodeFacts looks at what the node must have to run bottles.
type nodeFacts struct {
	options  *AgentOptions
	engine   *docker.Engine
	machines *smolvm.Driver
}

// NodeFacts implements host.Facts.
func (n *nodeFacts) NodeFacts(ctx context.Context) []host.Fact {
	o := n.options
	version, err := n.machines.Version(ctx)
	facts := []host.Fact{
		fact("smolvm", err != nil, fmt.Sprintf("smolvm does not run: install it in %s on the node", o.SmolvmDir)),
		fact("smolvm-version", err == nil && version.Older, fmt.Sprintf("smolvm %s on the node is older than %s: install a newer one", version.Version, oldestSmolvm)),
	}
	missing := ""
	for _, name := range []string{"lib", "agent-rootfs"} {
		if info, err := os.Stat(filepath.Join(o.SmolvmDir, name)); err != nil || !info.IsDir() {
			missing = filepath.Join(o.SmolvmDir, name)
		}
	}
	facts = append(facts,
		fact("smolvm-files", missing != "", "smolvm is incomplete on the node: "+missing+" is missing"),
		fact("docker", n.engine.Ping(ctx) != nil, fmt.Sprintf("the node's Docker Engine does not answer at %s: start docker there", o.DockerHost)),
		n.kvm(),
		fact("state-dir", os.WriteFile(filepath.Join(o.StateDir, ".writable"), nil, 0o600) != nil, fmt.Sprintf("%s on the node cannot be written to", o.StateDir)),
	)
	return facts
}

// kvm looks whether the device is there and open to the users that machines
// run as. Whether it boots anything shows only at a boot.
func (n *nodeFacts) kvm() host.Fact {
	device := n.options.KVMDevice
	if device == "" {
		return fact("kvm", false, "")
	}
	info, err := os.Stat(device)
	if err != nil {
		return fact("kvm", true, fmt.Sprintf("%s is not there: load the kvm module, or enable virtualisation on the node", device))
	}
	return fact("kvm", info.Mode().Perm()&0o006 != 0o006,
		fmt.Sprintf("%s is closed to the users that machines run as: chmod 0666 it on the node", device))
}

// fact is one fact; its message is for when it fails.
func fact(name string, fails bool, message string) host.Fact {
	if !fails {
		return host.Fact{Name: name, OK: true}
	}
	return host.Fact{Name: name, Message: message}
}
