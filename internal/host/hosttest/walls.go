// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/watchers"
)

// Walls is an in-memory fake of host.Walls. A call is recorded as its method and
// the owner's ID, such as "EnsureWall bottle-demo-1a2b3c4d". InspectWalls,
// ListWalls and WatchWalls have no owner and are recorded as the method alone.
type Walls struct {
	*Faults
	mu       sync.Mutex
	walls    map[string]*wall  // by ID
	foreign  map[string]string // the kind of someone else's conflicting object, by ID
	noBridge map[string]bool   // by ID
	inode    uint64
	watchers watchers.Watchers
}

// wall is one wall of the fake.
type wall struct {
	spec     host.WallSpec
	ns       host.NetNS
	broken   []host.WallFault // until the next EnsureWall
	kept     []host.WallFault // permanent
	err      error            // set if the wall cannot be read
	accepted map[int32]uint64
	dropped  uint64
	drops    []host.Drop
}

var _ host.Walls = (*Walls)(nil)

// NewWalls returns a fake node without walls, on which every Bottle's bridge
// exists. The faults may be shared with other fakes; nil means none.
func NewWalls(faults *Faults) *Walls {
	if faults == nil {
		faults = &Faults{}
	}
	return &Walls{Faults: faults, walls: map[string]*wall{}, foreign: map[string]string{}, noBridge: map[string]bool{}, inode: 4026540000}
}

// RemoveBridge removes the owner's bridge.
func (f *Walls) RemoveBridge(owner host.Owner) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.noBridge[owner.ID()] = true
}

// AddBridge adds the owner's bridge again after RemoveBridge.
func (f *Walls) AddBridge(owner host.Owner) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.noBridge, owner.ID())
}

// PutForeign adds an object of someone else that conflicts with the owner's wall:
// a namespace, link or table.
func (f *Walls) PutForeign(owner host.Owner, what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.foreign[owner.ID()] = what
}

// Break adds a fault to a wall. The next EnsureWall repairs it.
func (f *Walls) Break(owner host.Owner, fault host.WallFault) {
	f.change(owner, func(w *wall) { w.broken = append(w.broken, fault) })
}

// Unreadable makes reading a wall fail with err. A nil err makes the wall
// readable again.
func (f *Walls) Unreadable(owner host.Owner, err error) {
	f.change(owner, func(w *wall) { w.err = err })
}

// BreakPermanently adds a fault to a wall that EnsureWall cannot repair.
func (f *Walls) BreakPermanently(owner host.Owner, fault host.WallFault) {
	f.change(owner, func(w *wall) { w.kept = append(w.kept, fault) })
}

// Remove removes a wall with its namespace, without the agent knowing.
func (f *Walls) Remove(owner host.Owner) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.walls, owner.ID())
}

// AddDrop counts packets to a destination as dropped packets.
func (f *Walls) AddDrop(owner host.Owner, d host.Drop) {
	f.change(owner, func(w *wall) {
		w.dropped += d.Packets
		for i, have := range w.drops {
			if have.Proto == d.Proto && have.Addr == d.Addr && have.Port == d.Port {
				w.drops[i].Packets += d.Packets
				return
			}
		}
		w.drops = append(w.drops, d)
	})
}

// CountAccepted counts packets to a port of the bundle as accepted packets.
func (f *Walls) CountAccepted(owner host.Owner, port int32, packets uint64) {
	f.change(owner, func(w *wall) { w.accepted[port] += packets })
}

// change calls how with the owner's wall, which must exist.
func (f *Walls) change(owner host.Owner, how func(w *wall)) {
	defer f.watchers.Notify("")
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.walls[owner.ID()]
	if w == nil {
		panic("hosttest: there is no wall " + owner.ID())
	}
	how(w)
}

// Get returns the owner's wall and the spec that it was made from. It returns
// false when there is none.
func (f *Walls) Get(owner host.Owner) (host.WallSpec, host.Wall, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.walls[owner.ID()]
	if w == nil {
		return host.WallSpec{}, host.Wall{}, false
	}
	return w.spec, f.observed(w.spec), true
}

// IDs returns the owners' IDs of all walls, sorted.
func (f *Walls) IDs() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.walls))
}

// call records a call and runs its effect with the lock held.
func (f *Walls) call(ctx context.Context, name string, effect func() error) error {
	return f.callSteps(ctx, name, steps{whole: effect})
}

// callSteps does the same as call for a call that can also fail half way.
func (f *Walls) callSteps(ctx context.Context, name string, s steps) error {
	return f.aroundSteps(name, s.under(ctx, &f.mu))
}

// EnsureWall implements host.Walls.
func (f *Walls) EnsureWall(ctx context.Context, spec host.WallSpec) (out host.Wall, err error) {
	defer f.watchers.Notify("")
	id := spec.Owner.ID()
	ensure := func() error {
		if f.noBridge[id] {
			return fmt.Errorf("wall %s: bridge %s: %w", id, spec.Owner.Bridge(), host.ErrNotFound)
		}
		if what := f.foreign[id]; what != "" {
			return fmt.Errorf("wall %s: the %s: %w", id, what, host.ErrConflict)
		}
		w := f.walls[id]
		if w == nil {
			f.inode++
			w = &wall{ns: host.NetNS{Dev: 4, Inode: f.inode}, accepted: map[int32]uint64{}}
			f.walls[id] = w
		}
		if !sameWall(w.spec, spec) { // it gets a new filter
			w.accepted, w.dropped, w.drops = map[int32]uint64{}, 0, nil
		}
		if w.err != nil {
			return w.err
		}
		w.broken, w.spec = nil, spec
		w.spec.Ports = slices.Clone(spec.Ports)
		out = f.observed(spec)
		return nil
	}
	// Half way, there is a namespace but no filter.
	err = f.callSteps(ctx, "EnsureWall "+id, steps{whole: ensure, half: func() error {
		if err := ensure(); err != nil {
			return err
		}
		f.walls[id].broken = []host.WallFault{{What: "filter bottle-" + spec.Owner.UID8() + " is missing", Open: true}}
		return nil
	}})
	return zeroOnError(out, err)
}

// InspectWalls implements host.Walls.
func (f *Walls) InspectWalls(ctx context.Context, specs []host.WallSpec) (out []host.Wall, err error) {
	err = f.call(ctx, "InspectWalls", func() error {
		for _, spec := range specs {
			out = append(out, f.observed(spec))
		}
		return nil
	})
	return zeroOnError(out, err)
}

// observed returns a wall as read back and compared with spec.
func (f *Walls) observed(spec host.WallSpec) host.Wall {
	out := host.Wall{Path: "/run/netns/" + spec.Owner.ID()}
	w := f.walls[spec.Owner.ID()]
	if w == nil {
		out.Faults = []host.WallFault{{What: "there is no wall"}}
		return out
	}
	if w.err != nil {
		out.Err = w.err
		return out
	}
	out.NetNS, out.Faults, out.Filter = w.ns, slices.Concat(w.broken, w.kept), fmt.Sprint("filter of ", w.spec.Ports)
	if f.noBridge[spec.Owner.ID()] {
		out.Faults = append(out.Faults, host.WallFault{What: "bridge " + spec.Owner.Bridge() + " is missing"})
	}
	if !sameWall(w.spec, spec) {
		out.Faults = append(out.Faults, host.WallFault{What: "filter bottle-" + spec.Owner.UID8() + " has other rules than the wall's", Open: true, Rules: true})
		return out
	}
	out.Accepted, out.Dropped = map[int32]uint64{}, w.dropped
	for _, p := range spec.Ports {
		out.Accepted[p] = w.accepted[p]
	}
	return out
}

func sameWall(a, b host.WallSpec) bool {
	return a.Owner.ID() == b.Owner.ID() && a.Subnet == b.Subnet && a.BundleIP == b.BundleIP && a.MachineIP == b.MachineIP && slices.Equal(a.Ports, b.Ports)
}

// WatchWalls implements host.Walls.
func (f *Walls) WatchWalls(ctx context.Context, changed func()) error {
	return f.around("WatchWalls", func() error {
		defer f.watchers.Add(func(string) { changed() })()
		<-ctx.Done()
		return ctx.Err()
	})
}

// DeleteWall implements host.Walls.
func (f *Walls) DeleteWall(ctx context.Context, owner host.Owner) error {
	defer f.watchers.Notify("")
	remove := func() error {
		delete(f.walls, owner.ID())
		return nil
	}
	// Half way, the filter is removed but the namespace is not.
	return f.callSteps(ctx, "DeleteWall "+owner.ID(), steps{whole: remove, half: func() error {
		if w := f.walls[owner.ID()]; w != nil {
			w.broken = []host.WallFault{{What: "filter bottle-" + owner.UID8() + " is missing", Open: true}}
		}
		return nil
	}})
}

// ListWalls implements host.Walls.
func (f *Walls) ListWalls(ctx context.Context) (out []host.WallOwner, err error) {
	err = f.call(ctx, "ListWalls", func() error {
		for _, id := range slices.Sorted(maps.Keys(f.walls)) {
			o := f.walls[id].spec.Owner
			out = append(out, host.WallOwner{ID: id, UID: o.UID, Cluster: o.Cluster})
		}
		return nil
	})
	return zeroOnError(out, err)
}

// Drops implements host.Walls.
func (f *Walls) Drops(ctx context.Context, owner host.Owner) (out []host.Drop, err error) {
	err = f.call(ctx, "Drops "+owner.ID(), func() error {
		w := f.walls[owner.ID()]
		if w == nil {
			return fmt.Errorf("filter of wall %s: %w", owner.ID(), host.ErrNotFound)
		}
		out = slices.SortedFunc(slices.Values(w.drops), func(a, b host.Drop) int {
			return cmp.Or(cmp.Compare(a.Proto, b.Proto), a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port))
		})
		return nil
	})
	return zeroOnError(out, err)
}

// ForgetDrops implements host.Walls.
func (f *Walls) ForgetDrops(ctx context.Context, owner host.Owner) error {
	return f.call(ctx, "ForgetDrops "+owner.ID(), func() error {
		w := f.walls[owner.ID()]
		if w == nil {
			return fmt.Errorf("filter of wall %s: %w", owner.ID(), host.ErrNotFound)
		}
		w.drops = nil
		return nil
	})
}
