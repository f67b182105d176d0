// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/watchers"
)

// Networks is an in-memory fake of host.Networks. A call is recorded as its
// method and the owner's ID, such as "EnsureNetwork bottle-demo-1a2b3c4d".
type Networks struct {
	*Faults
	mu       sync.Mutex
	networks map[string]host.Network // by name
	occupied []netip.Prefix
	down     bool
	watchers notifying
}

var _ host.Networks = (*Networks)(nil)

// NewNetworks returns a fake node without networks. The faults may be shared with
// other fakes; nil means none.
func NewNetworks(faults *Faults) *Networks {
	if faults == nil {
		faults = &Faults{}
	}
	return &Networks{Faults: faults, networks: map[string]host.Network{}}
}

// Put adds a network with its owner's name, without recording a call.
func (f *Networks) Put(n host.Network) { f.PutAs(n.Owner.ID(), n) }

// PutAs adds a network with any name, without recording a call. If n has no
// owner, the network has none of our labels.
func (f *Networks) PutAs(name string, n host.Network) {
	f.mu.Lock()
	f.networks[name] = n
	f.mu.Unlock()
	f.watchers.notifyOwner(n.Owner)
}

// Remove removes a network without the agent knowing.
func (f *Networks) Remove(name string) {
	f.mu.Lock()
	n := f.networks[name]
	delete(f.networks, name)
	f.mu.Unlock()
	f.watchers.notifyOwner(n.Owner)
}

// Occupy sets the prefixes that the node's own addresses and routes occupy.
func (f *Networks) Occupy(prefixes ...netip.Prefix) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.occupied = slices.Clone(prefixes)
}

// All returns the networks by name.
func (f *Networks) All() map[string]host.Network {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.networks)
}

// Down makes every call fail with ErrUnavailable.
func (f *Networks) Down() { f.setDown(true) }

// Up makes calls work again after Down.
func (f *Networks) Up() { f.setDown(false) }

func (f *Networks) setDown(down bool) {
	f.mu.Lock()
	f.down = down
	f.mu.Unlock()
	f.watchers.Notify("")
}

// call records a call and runs its effect with the lock held.
func (f *Networks) call(ctx context.Context, name string, effect func() error) error {
	return f.callSteps(ctx, name, steps{whole: effect})
}

// callSteps does the same as call for a call that can also fail half way.
func (f *Networks) callSteps(ctx context.Context, name string, s steps) error {
	up := func(effect func() error) func() error {
		if effect == nil {
			return nil
		}
		return func() error {
			if f.down {
				return fmt.Errorf("docker: %w", host.ErrUnavailable)
			}
			return effect()
		}
	}
	return f.aroundSteps(name, steps{whole: up(s.whole), half: up(s.half)}.under(ctx, &f.mu))
}

// InspectNetwork implements host.Networks.
func (f *Networks) InspectNetwork(ctx context.Context, owner host.Owner) (out host.Network, err error) {
	err = f.call(ctx, "InspectNetwork "+owner.ID(), func() error {
		n, ok := f.networks[owner.ID()]
		switch {
		case !ok:
			return fmt.Errorf("network %q: %w", owner.ID(), host.ErrNotFound)
		case !owner.Same(n.Owner):
			return fmt.Errorf("network %q: %w", owner.ID(), host.ErrConflict)
		}
		out = n
		return nil
	})
	return zeroOnError(out, err)
}

// OccupiedPrefixes implements host.Networks.
func (f *Networks) OccupiedPrefixes(ctx context.Context, owner host.Owner) (out []netip.Prefix, err error) {
	err = f.call(ctx, "OccupiedPrefixes "+owner.ID(), func() error {
		out = slices.Clone(f.occupied)
		for name, n := range f.networks {
			if n.Subnet.IsValid() && (name != owner.ID() || !owner.Same(n.Owner)) {
				out = append(out, n.Subnet)
			}
		}
		slices.SortFunc(out, comparePrefix)
		return nil
	})
	return zeroOnError(out, err)
}

// EnsureNetwork implements host.Networks.
func (f *Networks) EnsureNetwork(ctx context.Context, n host.Network) error {
	changed := false
	ensure := func() error {
		have, ok := f.networks[n.Owner.ID()]
		if ok && !n.Owner.Same(have.Owner) {
			return fmt.Errorf("network %q: %w", n.Owner.ID(), host.ErrConflict)
		}
		if ok && have == n {
			return nil
		}
		delete(f.networks, n.Owner.ID())
		changed = true
		for name, other := range f.networks {
			if other.Subnet.IsValid() && other.Subnet.Overlaps(n.Subnet) {
				return fmt.Errorf("network %q on %s: %w: %q", n.Owner.ID(), n.Subnet, host.ErrOverlap, name)
			}
		}
		f.networks[n.Owner.ID()] = n
		return nil
	}
	// Half way, the old network is removed, and there is no new one yet.
	err := f.callSteps(ctx, "EnsureNetwork "+n.Owner.ID(), steps{whole: ensure, half: func() error {
		if have, ok := f.networks[n.Owner.ID()]; ok && n.Owner.Same(have.Owner) && have != n {
			delete(f.networks, n.Owner.ID())
			changed = true
		}
		return nil
	}})
	if changed {
		f.watchers.Notify(n.Owner.UID)
	}
	return err
}

// DeleteNetwork implements host.Networks.
func (f *Networks) DeleteNetwork(ctx context.Context, owner host.Owner) error {
	changed := false
	err := f.call(ctx, "DeleteNetwork "+owner.ID(), func() error {
		if n, ok := f.networks[owner.ID()]; ok && owner.Same(n.Owner) {
			delete(f.networks, owner.ID())
			changed = true
		}
		return nil
	})
	if changed {
		f.watchers.Notify(owner.UID)
	}
	return err
}

// ListNetworks implements host.Networks.
func (f *Networks) ListNetworks(ctx context.Context) (out []host.Network, err error) {
	err = f.call(ctx, "ListNetworks", func() error {
		for _, name := range slices.Sorted(maps.Keys(f.networks)) {
			if n := f.networks[name]; n.Owner.UID != "" {
				out = append(out, n)
			}
		}
		return nil
	})
	return zeroOnError(out, err)
}

// zeroOnError hides a fake's result from its caller if the call failed after its
// effect.
func zeroOnError[T any](out T, err error) (T, error) {
	if err != nil {
		var zero T
		return zero, err
	}
	return out, nil
}

func comparePrefix(a, b netip.Prefix) int { return strings.Compare(a.String(), b.String()) }

// notifying are the watchers of a fake. The caller of Notify must not hold the fake's lock.
type notifying struct{ watchers.Watchers }

// notifyOwner notifies the watchers of a change to one of our objects. It does
// nothing for anybody else's object.
func (w *notifying) notifyOwner(owner host.Owner) {
	if owner.UID != "" {
		w.Notify(owner.UID)
	}
}
