// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"context"
	"slices"
	"sync"

	"botbottle.dev/bottle-operator/internal/host"
)

// FactNames are the facts of a node, in order.
var FactNames = []string{"smolvm", "smolvm-version", "smolvm-files", "docker", "kvm", "cgroups", "state-dir", "prober"}

// Facts is a fake of host.Facts: a node in order until told otherwise.
type Facts struct {
	mu     sync.Mutex
	broken map[string]string
}

var _ host.Facts = (*Facts)(nil)

// Break makes a fact fail with a message; an empty one mends it.
func (f *Facts) Break(name, message string) {
	if !slices.Contains(FactNames, name) {
		panic("hosttest: no fact is called " + name)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken == nil {
		f.broken = map[string]string{}
	}
	f.broken[name] = message
}

// NodeFacts implements host.Facts.
func (f *Facts) NodeFacts(context.Context) []host.Fact {
	f.mu.Lock()
	defer f.mu.Unlock()
	facts := make([]host.Fact, len(FactNames))
	for i, name := range FactNames {
		facts[i] = host.Fact{Name: name, OK: f.broken[name] == "", Message: f.broken[name]}
	}
	return facts
}
