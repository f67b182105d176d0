// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"

	"botbottle.dev/bottle-operator/internal/host"
)

// PodOptions are the options of NewPods.
type PodOptions struct {
	// Dir is the folder of the machines' namespaces; "" means DefaultDir. Walls may use
	// the same folder for other owners.
	Dir string
	// Namespace returns the file and the identity of the network namespace of the owner's
	// Pod. ErrNotFound means that the Pod has none now. An error of any other kind means
	// that it is not known. Namespace is called for every wall each time that it is
	// inspected.
	Namespace func(ctx context.Context, owner host.Owner) (path string, id host.NetNS, err error)
}

// PodWalls manages walls whose bundle runs in a Pod: the bundle's end of the link, its filter
// and the bundle's bridge are in the network namespace of that Pod. PodWalls enters that
// namespace for each call, and keeps nothing open in it in between, so that the namespace
// ends with its Pod. It is safe for concurrent use.
//
// In addition, PodWalls keeps everybody else from the bundle, and keeps the Pod from
// forwarding the machine's packets. See podTable.
type PodWalls struct {
	walls     *Walls // makes and reads walls in the namespace of the calling thread
	namespace func(ctx context.Context, owner host.Owner) (string, host.NetNS, error)
	ids       idSet
	memory    podMemory
}

var _ host.Walls = (*PodWalls)(nil)

// NewPods returns the walls of bundles that run in Pods. It does not change or read
// anything yet.
func NewPods(o PodOptions) *PodWalls {
	return &PodWalls{walls: New(Options{Dir: o.Dir}), namespace: o.Namespace, memory: podMemory{now: time.Now}}
}

// EnsureWall implements host.Walls. ErrNotFound also means that the Pod has no network
// namespace, and ErrUnavailable that nobody knows which one it has. When the Pod has none,
// or another one than before, EnsureWall deletes a link that leads into the former one.
func (p *PodWalls) EnsureWall(ctx context.Context, spec host.WallSpec) (host.Wall, error) {
	if err := errors.Join(checkSpec(spec), ctx.Err()); err != nil {
		return host.Wall{}, err
	}
	want, err := p.walls.expect(spec)
	if err != nil {
		return host.Wall{}, err
	}
	defer p.walls.locks.Lock(spec.Owner.UID8())()
	var wall host.Wall
	err = p.inPod(ctx, spec.Owner, func() (err error) {
		// The bundle may serve already, so its table does not wait for its bridge.
		if err := podTable(spec).ensure(); err != nil {
			return err
		}
		wall, err = p.walls.ensure(ctx, podSide{p}, spec, want)
		return err
	})
	if errors.Is(err, host.ErrNotFound) {
		err = errors.Join(err, p.cutOffStray(ctx, spec.Owner))
	}
	return wall, err
}

// ProtectBundle writes the podTable in the owner's Pod, which keeps everybody else from the
// bundle. EnsureWall does so, too; ProtectBundle is for a Pod without a wall. It does not know
// the bundle's ports, and leaves a podTable alone that also names some. ErrNotFound means that
// the Pod has no network namespace, and ErrUnavailable that nobody knows which one it has.
func (p *PodWalls) ProtectBundle(ctx context.Context, owner host.Owner) error {
	if err := errors.Join(checkOwner(owner), ctx.Err()); err != nil {
		return err
	}
	defer p.walls.locks.Lock(owner.UID8())()
	return p.inPod(ctx, owner, func() error {
		t := podTable(host.WallSpec{Owner: owner})
		if lack, err := t.lack(); err != nil || lack == "" {
			return err
		}
		return t.write()
	})
}

// cutOffStray deletes the link of a namespace of ours if the other end of it is not in the
// Pod's current network namespace.
func (p *PodWalls) cutOffStray(ctx context.Context, owner host.Owner) error {
	f, err := p.observeOwn(ctx, owner)
	if err != nil || f.netNSOwnership(owner) != ours || f.inside.link(innerName) == nil {
		return err
	}
	err = p.inPod(ctx, owner, func() error {
		there, err := podSide{p}.observeOne(ctx, host.WallSpec{Owner: owner})
		if err == nil && !there.paired() {
			err = errStray
		}
		return err
	})
	if errors.Is(err, errStray) || errors.Is(err, host.ErrNotFound) {
		return cutOff(f.path)
	}
	return err
}

// errStray means that a link does not lead into the Pod.
var errStray = errors.New("the link does not lead into the Pod")

// InspectWalls implements host.Walls. The wall has an Err if it cannot be found out which
// network namespace its Pod has, and a fault that is not open if the Pod has none.
func (p *PodWalls) InspectWalls(ctx context.Context, specs []host.WallSpec) ([]host.Wall, error) {
	if len(specs) == 0 {
		return nil, ctx.Err()
	}
	if err := errors.Join(checkSpecs(specs), ctx.Err()); err != nil {
		return nil, err
	}
	first := p.read
	if len(specs) > few {
		first = p.readMany
	}
	return p.walls.inspect(ctx, specs, first, p.read)
}

// DeleteWall implements host.Walls. It first deletes the machine's end of the link, which
// deletes both, and so waits for nobody who knows the Pod. The table that protects the
// bundle stays, because the bundle may go on running; it disappears with the Pod.
func (p *PodWalls) DeleteWall(ctx context.Context, owner host.Owner) error {
	if err := errors.Join(checkOwner(owner), ctx.Err()); err != nil {
		return err
	}
	defer p.walls.locks.Lock(owner.UID8())()
	own, err := p.observeOwn(ctx, owner)
	if err == nil && own.netNSOwnership(owner) == ours {
		err = cutOff(own.path)
	}
	if err == nil {
		err = p.tearDown(ctx, owner, own)
	}
	if err != nil {
		return fmt.Errorf("wall %s: %w", owner.ID(), err)
	}
	p.walls.forget(owner)
	return nil
}

// tearDown deletes what is left of a wall. own is the machine's side.
func (p *PodWalls) tearDown(ctx context.Context, owner host.Owner, own facts) error {
	entered := false
	err := p.inPod(ctx, owner, func() error {
		entered = true
		f, err := podSide{p}.observeOne(ctx, host.WallSpec{Owner: owner})
		if err = errors.Join(err, f.inside.err); err != nil {
			return err
		}
		return p.walls.tearDown(owner, f)
	})
	switch {
	case entered:
		return err
	case errors.Is(err, host.ErrNotFound), errors.Is(err, errNodesNetwork):
		err = nil // there is no other side
	}
	return errors.Join(p.walls.tearDown(owner, own), err)
}

// observeOwn reads only the machine's side of a wall. The facts say nothing about the other.
func (p *PodWalls) observeOwn(ctx context.Context, owner host.Owner) (facts, error) {
	f := []facts{{path: p.walls.path(owner)}}
	if err := p.walls.observeInside(ctx, f); err != nil {
		return facts{}, err
	}
	return f[0], f[0].inside.err
}

// ListWalls implements host.Walls. What is left of a wall in a Pod alone disappears with
// the Pod and is not listed.
func (p *PodWalls) ListWalls(ctx context.Context) ([]host.WallOwner, error) {
	return listWalls(ctx, p.walls.netnsMarks)
}

// Drops implements host.Walls.
func (p *PodWalls) Drops(ctx context.Context, owner host.Owner) (drops []host.Drop, err error) {
	if err := errors.Join(checkOwner(owner), ctx.Err()); err != nil {
		return nil, err
	}
	err = p.inPod(ctx, owner, func() (err error) {
		drops, err = p.walls.Drops(ctx, owner)
		return err
	})
	return drops, err
}

// ForgetDrops implements host.Walls.
func (p *PodWalls) ForgetDrops(ctx context.Context, owner host.Owner) error {
	if err := errors.Join(checkOwner(owner), ctx.Err()); err != nil {
		return err
	}
	return p.inPod(ctx, owner, func() error { return p.walls.ForgetDrops(ctx, owner) })
}

// inPod runs f on a thread in the network namespace of the owner's Pod.
func (p *PodWalls) inPod(ctx context.Context, owner host.Owner, f func() error) error {
	found := p.lookup(ctx, owner, lookupLimit)
	ns, err := p.open(found, &netlink.Handle{})
	if err != nil {
		return fmt.Errorf("wall %s: %w", owner.ID(), err)
	}
	defer ns.Close()
	return inside(ns, f)
}
