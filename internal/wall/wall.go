// SPDX-License-Identifier: Apache-2.0

// Package wall is the adapter to the kernel for host.Walls: for each machine a
// network namespace whose one link leads into the bundle's bridge, and at the
// node's end of that link an nftables chain, netdev ingress, which lets through
// ARP for the bundle and TCP to its ports and drops the rest. Whoever is root
// in the namespace can neither change that chain nor get past it.
//
// All is done through netlink, in the network namespace of this process; no
// other program is run. The package makes no bridge (docker does), starts
// nothing in a namespace and decides nothing: what is wrong with a wall it
// reports, and what to do about it is its caller's.
//
// Whose a thing is says its mark (see markOf). A table of the name
// bottle-UID8 is ours unless its last rule bears another's mark. A namespace
// is ours when its loopback bears our mark, or when the link in it is the other
// end of ours. A link at the node's end is ours under the same two rules.
package wall

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/keyed"
)

// DefaultDir is where `ip netns` looks for namespaces, too.
const DefaultDir = "/run/netns"

// Options are a Walls' options.
type Options struct {
	// Dir is the folder of the namespaces; "" is DefaultDir.
	Dir string
}

// Walls are the walls of the node whose network namespace the process is in.
// It is safe for concurrent use.
type Walls struct {
	dir   string
	dirMu sync.Mutex
	locks keyed.Locks

	mu       sync.Mutex
	expected map[string]*expected // by owner's ID; a cache
}

var _ host.Walls = (*Walls)(nil)

// New returns the node's walls. It touches nothing yet.
func New(o Options) *Walls {
	return &Walls{dir: cmp.Or(o.Dir, DefaultDir), expected: map[string]*expected{}}
}

// InspectWalls implements host.Walls. A wall that is found wanting is looked at
// once more while nobody here changes it: what was read is no snapshot.
func (w *Walls) InspectWalls(ctx context.Context, specs []host.WallSpec) ([]host.Wall, error) {
	if len(specs) == 0 {
		return nil, ctx.Err()
	}
	for _, s := range specs {
		if err := checkSpec(s); err != nil {
			return nil, err
		}
	}
	walls, err := w.read(ctx, specs)
	if err != nil {
		return nil, err
	}
	var again []int
	for i := range walls {
		if len(walls[i].Faults) > 0 || walls[i].Err != nil {
			again = append(again, i)
		}
	}
	if len(again) == 0 {
		return walls, nil
	}
	faulty := make([]host.WallSpec, len(again))
	names := make([]string, len(again))
	for k, i := range again {
		faulty[k], names[k] = specs[i], specs[i].Owner.UID8()
	}
	defer w.locks.Lock(names...)()
	second, err := w.read(ctx, faulty)
	if err != nil {
		return nil, err
	}
	for k, i := range again {
		walls[i] = second[k]
	}
	return walls, nil
}

// read looks at walls and judges them.
func (w *Walls) read(ctx context.Context, specs []host.WallSpec) ([]host.Wall, error) {
	found, err := w.look(ctx, specs)
	if err != nil {
		return nil, err
	}
	walls := make([]host.Wall, len(specs))
	for i, s := range specs {
		want, err := w.expect(s)
		if err != nil {
			return nil, err
		}
		walls[i] = wallOf(s, want, found[i])
	}
	return walls, nil
}

func wallOf(s host.WallSpec, want *expected, f facts) host.Wall {
	if err := errors.Join(f.inside.err, f.filter.err); err != nil {
		return host.Wall{Path: f.path, Err: fmt.Errorf("wall %s cannot be read: %w", s.Owner.ID(), err)}
	}
	wall := host.Wall{NetNS: f.id, Path: f.path, Faults: judge(s, want, f), Filter: f.filter.digest()}
	if f.filter.table != nil && want.equal(f.filter.rules) {
		wall.Accepted, wall.Dropped = want.counts(f.filter.rules)
	}
	return wall
}

// maxExpected bounds the cache; a node has no more Bottles.
const maxExpected = 4096

// expect returns a spec's filter, from the cache if it is there.
func (w *Walls) expect(s host.WallSpec) (*expected, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.expected[s.Owner.ID()]; e != nil && e.of(s) {
		return e, nil
	}
	e, err := expect(s)
	if err != nil {
		return nil, err
	}
	if len(w.expected) >= maxExpected {
		clear(w.expected)
	}
	w.expected[s.Owner.ID()] = e
	return e, nil
}
