// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"fmt"
	"path/filepath"

	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"

	"botbottle.dev/bottle-operator/internal/bootid"
	"botbottle.dev/bottle-operator/internal/boottrial"
	"botbottle.dev/bottle-operator/internal/cgroup"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/nodefacts"
	"botbottle.dev/bottle-operator/internal/smolvm"
)

// bootTrialDir, below the state folder, holds the verdict on whether the node boots microVMs.
const bootTrialDir = "boot-trial"

// bootTrial returns the trial of this node. Its machine has a home of smolvm to itself.
func (o *AgentOptions) bootTrial() *boottrial.Trial {
	return boottrial.New(boottrial.Options{
		Dir: filepath.Join(o.StateDir, bootTrialDir), BootID: bootid.Read, Isolate: boottrial.Isolate,
		Machines: func(home string) boottrial.Machines {
			return smolvm.New(smolvm.Options{Dir: o.SmolvmDir, Home: home, Cgroups: o.CgroupParent, StartTimeout: o.StartTimeout})
		},
	})
}

// bootKeeper returns what makes the trial once each time the node has booted.
func (o *AgentOptions) bootKeeper(facts host.Facts) *boottrial.Keeper {
	return boottrial.NewKeeper(boottrial.KeeperOptions{
		Trial: o.bootTrial(), Clock: clock.RealClock{}, Log: ctrl.Log.WithName("boot-trial"),
		Ready: func(ctx context.Context) error {
			for _, f := range facts.NodeFacts(ctx) {
				if !f.OK && nodefacts.ForMachines(f.Name) {
					return fmt.Errorf("%s: %s", f.Name, f.Message)
				}
			}
			return nil
		},
		Running: func() (bool, error) { return cgroup.Running(o.CgroupParent, boottrial.Name) },
	})
}
