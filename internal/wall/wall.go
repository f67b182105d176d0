// SPDX-License-Identifier: Apache-2.0

// Package wall implements host.Walls with the Linux kernel. Each machine gets a
// network namespace with one link, which leads into the bundle's bridge. At the
// bundle's end of that link, an nftables chain (netdev ingress) accepts ARP for the
// bundle and TCP to its ports, and drops everything else. Root in the namespace
// can neither change that chain nor get past it.
//
// The bundle's end of a link is the end in the bundle's bridge. It is in the network
// namespace of this process, which is the node's (Walls), or, if the bundle runs in a
// Pod, in that of the Pod (PodWalls). In a Pod, a second filter keeps everybody else
// from the bundle: see podTable.
//
// The package does everything through netlink and runs no other program. It makes
// no bridge (docker or internal/criruntime does), starts nothing in a namespace and
// decides nothing: it reports what is wrong with a wall, and its caller decides what to
// do about it.
//
// A mark (see markOf) says which wall something belongs to. A table named
// bottle-UID8 is ours unless one of its rules has another wall's mark. A
// namespace is ours if its loopback has our mark, or if the link in it is the
// other end of our link. The same two rules hold for a link at the bundle's end:
// it is ours if it has our mark, or if it leads into our namespace.
package wall

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/keyed"
)

// DefaultDir is the folder that `ip netns` uses, too.
const DefaultDir = "/run/netns"

// Options are the options of New.
type Options struct {
	// Dir is the folder of the namespaces; "" means DefaultDir.
	Dir string
}

// Walls manages the walls of the node in whose network namespace the process
// runs. It is safe for concurrent use.
type Walls struct {
	dir   string
	dirMu sync.Mutex
	// bridgesMu is held while the bridges' table is written or deleted.
	bridgesMu sync.Mutex
	locks     keyed.Locks

	mu       sync.Mutex
	expected map[string]*expected // a cache, by the owner's ID

	memory memory
}

var _ host.Walls = (*Walls)(nil)

// New returns the node's walls. It does not change or read anything yet.
func New(o Options) *Walls {
	return &Walls{dir: cmp.Or(o.Dir, DefaultDir), expected: map[string]*expected{}, memory: memory{now: time.Now}}
}

// InspectWalls implements host.Walls. It reads a wall with faults a second time
// while it holds the wall's lock, because the first reading is not a snapshot.
func (w *Walls) InspectWalls(ctx context.Context, specs []host.WallSpec) ([]host.Wall, error) {
	if len(specs) == 0 {
		return nil, ctx.Err()
	}
	if err := checkSpecs(specs); err != nil {
		return nil, err
	}
	read := w.read
	if len(specs) > few {
		read = w.readMany
	}
	return w.inspect(ctx, specs, read, w.read)
}

// reading reads walls back and judges them.
type reading func(ctx context.Context, specs []host.WallSpec) ([]host.Wall, error)

// inspect reads walls back, and reads those with faults once more while it holds their
// locks.
func (w *Walls) inspect(ctx context.Context, specs []host.WallSpec, first, second reading) ([]host.Wall, error) {
	walls, err := first(ctx, specs)
	if err != nil {
		return nil, err
	}
	var again []int
	for i := range walls {
		if len(walls[i].Faults) > 0 || walls[i].Err != nil && !errors.Is(walls[i].Err, errLookup) {
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
	reread, err := second(ctx, faulty)
	if err != nil {
		return nil, err
	}
	for k, i := range again {
		walls[i] = reread[k]
	}
	return walls, nil
}

// read observes walls in full and judges them.
func (w *Walls) read(ctx context.Context, specs []host.WallSpec) ([]host.Wall, error) {
	found, err := w.observe(ctx, specs)
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
	err := errors.Join(f.inside.err, f.filter.err)
	if f.pod != nil {
		err = errors.Join(err, f.pod.err)
	}
	if err != nil {
		return host.Wall{Path: f.path, Err: fmt.Errorf("wall %s cannot be read: %w", s.Owner.ID(), err)}
	}
	wall := host.Wall{NetNS: f.id, Path: f.path, Faults: judge(s, want, f), Filter: f.filter.digest()}
	if f.filter.table != nil && want.equal(f.filter.rules) {
		wall.Accepted, wall.Dropped = want.counts(f.filter.rules)
	}
	return wall
}

// maxExpected bounds the cache. No node has more Bottles.
const maxExpected = 4096

// expect returns the filter of a spec, from the cache if possible.
func (w *Walls) expect(s host.WallSpec) (*expected, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.expected[s.Owner.ID()]; e != nil && e.matches(s) {
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
