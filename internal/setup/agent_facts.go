// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"

	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"

	"botbottle.dev/bottle-operator/controllers/node"
	"botbottle.dev/bottle-operator/internal/bundleruntime"
	"botbottle.dev/bottle-operator/internal/cgroup"
	"botbottle.dev/bottle-operator/internal/docker"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/nodefacts"
	"botbottle.dev/bottle-operator/internal/smolvm"
)

// addFacts returns the facts about the node. It adds to mgr what finds out whether the
// node boots machines, unless machines need no KVM, as on test equipment.
func (o *AgentOptions) addFacts(mgr ctrl.Manager, engine *docker.Engine, p parts, guestProgram string) (*node.Facts, error) {
	options := o.factOptions(engine, guestProgram)
	options.Version = p.machines.Version
	cri := p.runtimes.cri.Load()
	options.PingRuntime, options.RuntimeSocket = cri.Answers, cri.Socket
	options.NeedsDocker = func(context.Context) bool { return p.runtimes.set.Active(bundleruntime.Docker) }
	options.NeedsRuntime = func(context.Context) bool { return p.runtimes.set.Active(bundleruntime.Pod) }
	if o.KVMDevice == "" {
		return node.NewFacts(nodefacts.New(options), clock.RealClock{}), nil
	}
	boot := o.bootKeeper(nodefacts.New(options))
	options.Boot = boot.Fact
	facts := node.NewFacts(nodefacts.New(options), clock.RealClock{})
	boot.Tried = facts.Refresh // so that the node offers Bottles at once
	return facts, mgr.Add(boot)
}

// factOptions say what the facts are about.
func (o *AgentOptions) factOptions(engine *docker.Engine, guestProgram string) nodefacts.Options {
	return nodefacts.Options{
		SmolvmDir: o.SmolvmDir, StateDir: o.StateDir, KVMDevice: o.KVMDevice, GuestProgram: guestProgram,
		Version:    func(ctx context.Context) (host.SmolvmVersion, error) { return smolvm.VersionOf(ctx, o.SmolvmDir) },
		PingDocker: engine.Ping, Cgroups: cgroup.Inspect,
	}
}
