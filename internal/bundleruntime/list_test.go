// SPDX-License-Identifier: Apache-2.0

package bundleruntime

import (
	"context"
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

// lists lists one network and one bundle, and counts how often it is asked.
type lists struct {
	host.Networks
	host.Bundles
	asked int
}

func (l *lists) ListNetworks(context.Context) ([]host.Network, error) {
	l.asked++
	return []host.Network{{}}, nil
}

func (l *lists) ListBundles(context.Context) ([]host.Bundle, error) {
	l.asked++
	return []host.Bundle{{}}, nil
}

// The sweeper removes what is listed and belongs to no Bottle of the node. Pods are not the
// agent's: the Bottle of one may be on its way to the node.
func TestOnlyDockersAreListed(t *testing.T) {
	for kind, want := range map[Kind]int{Docker: 1, Pod: 0} {
		dir, err := state.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		choices, err := NewChoices(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		set := &Set{Choices: choices, Node: &Node{Wanted: kind}}
		docker, pod := &lists{}, &lists{}
		networks, err := NewNetworks(set, docker, pod, nil).ListNetworks(t.Context())
		if err != nil || len(networks) != want {
			t.Errorf("%s: got networks %v, %v, want %d", kind, networks, err, want)
		}
		bundles, err := NewBundles(set, docker, pod, nil).ListBundles(t.Context())
		if err != nil || len(bundles) != want {
			t.Errorf("%s: got bundles %v, %v, want %d", kind, bundles, err, want)
		}
		if pod.asked > 0 || docker.asked != 2*want {
			t.Errorf("%s: got %d questions to docker and %d to the container runtime, want %d and 0", kind, docker.asked, pod.asked, 2*want)
		}
	}
}
