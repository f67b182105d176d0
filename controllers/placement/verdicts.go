// SPDX-License-Identifier: Apache-2.0

package placement

import "sync"

// verdicts holds what the node controller last observed about each node. The
// Bottle controller bases its decisions on it.
type verdicts struct {
	mu    sync.Mutex
	nodes map[string]nodeFacts
}

func newVerdicts() *verdicts { return &verdicts{nodes: map[string]nodeFacts{}} }

// get returns what is known about a node. An unknown node counts as healthy.
func (v *verdicts) get(node string) nodeFacts {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.nodes[node]
}

// set records the facts about a node and reports whether they changed.
func (v *verdicts) set(node string, f nodeFacts) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	old := v.nodes[node]
	if f == (nodeFacts{}) {
		delete(v.nodes, node)
	} else {
		v.nodes[node] = f
	}
	return old != f
}

// agentsLost counts the Nodes whose agent is lost.
func (v *verdicts) agentsLost() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := 0
	for _, f := range v.nodes {
		if f.agentLost && !f.gone {
			n++
		}
	}
	return n
}
