// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"

	"botbottle.dev/bottle-operator/internal/host"
)

// EnsureWall implements host.Walls.
func (w *Walls) EnsureWall(ctx context.Context, spec host.WallSpec) (host.Wall, error) {
	if err := checkSpec(spec); err != nil {
		return host.Wall{}, err
	}
	want, err := w.expect(spec)
	if err != nil {
		return host.Wall{}, err
	}
	defer w.locks.Lock(spec.Owner.UID8())()
	return w.ensure(ctx, w, spec, want)
}

// side is where the bundle's end of a wall lies: on the node or in a Pod.
type side interface {
	// observeOne reads a wall back.
	observeOne(ctx context.Context, spec host.WallSpec) (facts, error)
	// secureBridge keeps the bundle's bridge from passing on what it should not.
	secureBridge(spec host.WallSpec, f facts) error
}

func (w *Walls) secureBridge(host.WallSpec, facts) error { return w.ensureBridgesTable() }

// ensure makes a wall stand whose bundle's end lies in the calling thread's network
// namespace. The caller holds the wall's lock.
func (w *Walls) ensure(ctx context.Context, at side, spec host.WallSpec, want *expected) (host.Wall, error) {
	f, err := at.observeOne(ctx, spec)
	if err != nil {
		return host.Wall{}, err
	}
	if f.bridge == nil {
		return host.Wall{}, fmt.Errorf("wall %s: bridge %s: %w", spec.Owner.ID(), spec.Owner.Bridge(), host.ErrNotFound)
	}
	if err := f.conflict(spec.Owner); err != nil {
		return host.Wall{}, err
	}
	if wall := wallOf(spec, want, f); wall.Err != nil || len(wall.Faults) == 0 {
		return wall, wall.Err
	}
	r := &repair{walls: w, at: at, spec: spec, want: want, facts: f}
	if err := r.run(ctx); err != nil {
		return host.Wall{}, fmt.Errorf("wall %s: %w", spec.Owner.ID(), err)
	}
	if f, err = at.observeOne(ctx, spec); err != nil {
		return host.Wall{}, err
	}
	wall := wallOf(spec, want, f)
	return wall, wall.Err
}

func (w *Walls) observeOne(ctx context.Context, spec host.WallSpec) (facts, error) {
	found, err := w.observe(ctx, []host.WallSpec{spec})
	if err != nil {
		return facts{}, err
	}
	return found[0], nil
}

// repair makes a wall stand as specified. All of the wall must be ours.
type repair struct {
	walls *Walls
	at    side
	spec  host.WallSpec
	want  *expected
	facts facts           // as observed before the repair
	in    *netlink.Handle // in the namespace
	ns    *os.File
}

func (r *repair) run(ctx context.Context) error {
	mark := markOf(r.spec.Owner)
	if r.facts.kind == fileAbsent {
		if err := r.walls.makeNetNS(r.facts.path, mark); err != nil {
			return err
		}
	}
	ns, _, _, err := openNetNS(r.facts.path)
	if err != nil || ns == nil {
		return errors.Join(err, fmt.Errorf("namespace %s went away", r.facts.path))
	}
	defer ns.Close()
	r.ns = ns
	return inNetNS(ns, func(h *netlink.Handle) error {
		r.in = h
		// The order keeps the wall closed: no link is brought up or put into the
		// bridge before the filter is on it.
		for _, step := range []func() error{r.link, r.filter, r.removeExtras, r.loopback, r.inner, r.routes, r.secureBridge, r.bundleEnd} {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	})
}

func (r *repair) secureBridge() error { return r.at.secureBridge(r.spec, r.facts) }

// stands reports whether the link can stay. A link with an XDP program, which
// runs before the filter, must be replaced, because the program cannot always
// be removed.
func (r *repair) stands() bool { return r.facts.paired() && !r.facts.bundleEnd.xdp }

// link recreates the pair of links, unless it can stay. It first deletes what is
// in its place.
func (r *repair) link() error {
	if r.stands() {
		return nil
	}
	o := r.spec.Owner
	if err := deleteLink(o.Veth()); err != nil {
		return err
	}
	if err := deleteLinks(r.in, func(l attrs) bool { return !harmless(l) }); err != nil {
		return err
	}
	err := netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: o.Veth(), HardwareAddr: bundleEndMAC(o), MTU: r.facts.bridge.mtu, TxQLen: -1},
		PeerName:  innerName, PeerHardwareAddr: machineMAC(o), PeerNamespace: netlink.NsFd(r.ns.Fd()), PeerMTU: uint32(r.facts.bridge.mtu), PeerTxQLen: -1,
	})
	if err != nil {
		return fmt.Errorf("make link %s: %w", o.Veth(), err)
	}
	return nil
}

// filter writes the filter if it is wrong or if the link is new: some kernels
// drop a chain with its device, others keep it and bind it to the next device of
// that name.
func (r *repair) filter() error {
	if r.stands() && filterFault(r.facts.filter, r.want) == "" {
		return nil
	}
	return replaceFilter(r.spec, r.want.rules)
}
