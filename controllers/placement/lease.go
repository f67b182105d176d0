// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/utils/clock"
)

// leasePrefix starts the name of every agent's Lease; the node's name follows.
const leasePrefix = "bottle-agent-"

func leaseName(node string) string { return leasePrefix + node }

// nodeOfLease returns the node of an agent's Lease, and "" for other Leases.
func nodeOfLease(name string) string {
	node, found := strings.CutPrefix(name, leasePrefix)
	if !found {
		return ""
	}
	return node
}

// leases determines which agents are lost. A Lease expires when this process has
// not seen it change for the Lease's duration. Only this process's clock counts;
// the clocks of the nodes do not matter. A new process therefore waits for a
// whole duration before it considers any agent lost.
type leases struct {
	clock    clock.PassiveClock
	fallback time.Duration

	mu   sync.Mutex
	seen map[string]sighting
}

// sighting records when the current version of a Lease was first seen.
type sighting struct {
	renewal string
	at      time.Time
}

func newLeases(c clock.PassiveClock, fallback time.Duration) *leases {
	return &leases{clock: c, fallback: fallback, seen: map[string]sighting{}}
}

// observe records the Lease of a node's agent, nil when there is none. It returns
// how long the Lease remains valid; 0 or less means that it expired.
func (l *leases) observe(node string, lease *coordinationv1.Lease) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	renewal, duration := "none", l.fallback
	if lease != nil {
		renewal = string(lease.UID)
		if t := lease.Spec.RenewTime; t != nil {
			renewal += t.UTC().Format(time.RFC3339Nano)
		}
		if s := lease.Spec.LeaseDurationSeconds; s != nil && *s > 0 {
			duration = time.Duration(*s) * time.Second
		}
	}
	s, known := l.seen[node]
	if !known || s.renewal != renewal {
		s = sighting{renewal: renewal, at: l.clock.Now()}
		l.seen[node] = s
	}
	return duration - l.clock.Since(s.at)
}

// forget drops the record of a node.
func (l *leases) forget(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.seen, node)
}
