// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"context"
	"slices"
	"sync"

	"botbottle.dev/bottle-operator/internal/host"
)

// FactNames are the names of a node's facts, in the order of NodeFacts.
var FactNames = []string{"smolvm", "smolvm-version", "smolvm-files", "docker", "kvm", "cgroups", "state-dir", "guest-program", "kvm-boot"}

// Facts is a fake of host.Facts. All facts are OK unless Break was called.
type Facts struct {
	mu     sync.Mutex
	broken map[string]string
}

var _ host.Facts = (*Facts)(nil)

// Break makes a fact fail with a message. With an empty message the fact is OK
// again.
func (f *Facts) Break(name, message string) {
	if !slices.Contains(FactNames, name) {
		panic("hosttest: unknown fact " + name)
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
