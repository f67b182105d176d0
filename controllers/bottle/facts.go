// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"

	"botbottle.dev/bottle-operator/internal/host"
)

// Facts provides the facts about the node.
type Facts interface {
	// Get returns recent facts, from memory if possible; nil if ctx ends first.
	Get(ctx context.Context) []host.Fact
	// OnChange adds a function that is called when a fact has changed.
	OnChange(f func())
}

// factDocker is the fact that the network and bundle steps depend on. The
// machine depends on all others.
const factDocker = "docker"

// failing returns the first failing fact that concerns the caller, or nil.
func failing(facts []host.Fact, concerns func(name string) bool) *host.Fact {
	for _, f := range facts {
		if !f.OK && concerns(f.Name) {
			return &f
		}
	}
	return nil
}

func isDockerFact(name string) bool  { return name == factDocker }
func isMachineFact(name string) bool { return name != factDocker }
