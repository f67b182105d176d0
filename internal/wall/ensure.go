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
	f, err := w.observeOne(ctx, spec)
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
	m := &repair{walls: w, spec: spec, want: want, facts: f}
	if err := m.run(ctx); err != nil {
		return host.Wall{}, fmt.Errorf("wall %s: %w", spec.Owner.ID(), err)
	}
	if f, err = w.observeOne(ctx, spec); err != nil {
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
	spec  host.WallSpec
	want  *expected
	facts facts           // as observed before the repair
	in    *netlink.Handle // in the namespace
	ns    *os.File
}

func (m *repair) run(ctx context.Context) error {
	mark := markOf(m.spec.Owner)
	if m.facts.kind == fileAbsent {
		if err := m.walls.makeNetNS(m.facts.path, mark); err != nil {
			return err
		}
	}
	ns, _, _, err := openNetNS(m.facts.path)
	if err != nil || ns == nil {
		return errors.Join(err, fmt.Errorf("namespace %s went away", m.facts.path))
	}
	defer ns.Close()
	m.ns = ns
	return inNetNS(ns, func(h *netlink.Handle) error {
		m.in = h
		// The order keeps the wall closed: no link is brought up or put into the
		// bridge before the filter is on it.
		for _, step := range []func() error{m.link, m.filter, m.removeExtras, m.loopback, m.inner, m.routes, m.nodeEnd} {
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

// stands reports whether the link can stay. A link with an XDP program, which
// runs before the filter, must be replaced, because the program cannot always
// be removed.
func (m *repair) stands() bool { return m.facts.paired() && !m.facts.nodeEnd.xdp }

// link recreates the pair of links, unless it can stay. It first deletes what is
// in its place.
func (m *repair) link() error {
	if m.stands() {
		return nil
	}
	o := m.spec.Owner
	if err := deleteLink(o.Veth()); err != nil {
		return err
	}
	if err := deleteLinks(m.in, func(l attrs) bool { return !harmless(l) }); err != nil {
		return err
	}
	err := netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: o.Veth(), HardwareAddr: nodeMAC(o), MTU: m.facts.bridge.mtu, TxQLen: -1},
		PeerName:  innerName, PeerHardwareAddr: machineMAC(o), PeerNamespace: netlink.NsFd(m.ns.Fd()), PeerMTU: uint32(m.facts.bridge.mtu), PeerTxQLen: -1,
	})
	if err != nil {
		return fmt.Errorf("make link %s: %w", o.Veth(), err)
	}
	return nil
}

// filter writes the filter if it is wrong or if the link is new: some kernels
// drop a chain with its device, others keep it and bind it to the next device of
// that name.
func (m *repair) filter() error {
	if m.stands() && filterFault(m.facts.filter, m.want) == "" {
		return nil
	}
	return replaceFilter(m.spec, m.want.rules)
}
