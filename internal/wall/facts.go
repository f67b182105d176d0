// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/ownthread"
)

// facts are what was observed of one wall, not judged yet.
type facts struct {
	path string
	kind fileKind
	id   host.NetNS
	// node means that the file is the namespace of this process itself.
	node bool
	// bundleEnd and bridge are the links with these names, nil if there are none.
	bundleEnd, bridge *attrs
	filter            filterFacts
	inside            insideFacts
	// bridges says what is wrong with the bridges' table; "" if nothing is.
	bridges string
	// pod is what else was observed in a Pod; nil if the bundle's end is on the node.
	pod *podFacts
}

// attrs are the attributes of a link that matter here.
type attrs struct {
	name, kind, alias    string
	index, parent        int
	master, mtu, peersNS int
	up, xdp              bool
	mac                  string
}

// filterFacts describes the wall's table, and other chains on the wall's link.
type filterFacts struct {
	table *table // nil if there is none
	rules []writtenRule
	// earlier are the chains of other tables that see packets before ours.
	earlier []string
	err     error
}

// digest returns a digest of the rules as read, which does not depend on counts;
// "" if there is no table.
func (f filterFacts) digest() string {
	if f.table == nil {
		return ""
	}
	sum := sha256.New()
	for _, r := range f.rules {
		fmt.Fprintf(sum, "%s %d\n", r.chain, len(r.normal))
		sum.Write(r.normal)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// insideFacts describes what is in the namespace.
type insideFacts struct {
	links     []attrs
	addresses []netip.Prefix
	routes    []netlink.Route
	// peersNS is the node's ID for the namespace, -1 if it has none.
	peersNS int
	err     error
}

func (i insideFacts) link(name string) *attrs {
	for k := range i.links {
		if i.links[k].name == name {
			return &i.links[k]
		}
	}
	return nil
}

// observe reads walls back, in the order of specs.
func (w *Walls) observe(ctx context.Context, specs []host.WallSpec) ([]facts, error) {
	w.memory.inspected.mark(specs)
	links, err := linksOf(specs)
	if err != nil {
		return nil, err
	}
	out, err := w.observeEnds(ctx, specs, links)
	if err != nil {
		return nil, err
	}
	bridges, err := bridgesHooks.fault()
	if err != nil {
		return nil, err
	}
	for i := range out {
		out[i].bridges = bridges
	}
	return out, w.observeInside(ctx, out)
}

// observeEnds reads the bundle's ends of walls and their filters, in the calling thread's
// network namespace, which has these links.
func (w *Walls) observeEnds(ctx context.Context, specs []host.WallSpec, links map[string]*attrs) ([]facts, error) {
	rs, err := openRuleset()
	if err != nil {
		return nil, err
	}
	defer rs.close()
	tables, err := rs.tables()
	if err != nil {
		return nil, err
	}
	hooks := hooksOf(tables)
	out := make([]facts, len(specs))
	for i, s := range specs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		f := &out[i]
		f.path = w.path(s.Owner)
		f.bundleEnd, f.bridge = links[s.Owner.Veth()], links[s.Owner.Bridge()]
		f.filter = filterFacts{table: tables[tableName(s.Owner)], earlier: hooks[s.Owner.Veth()].before(tableName(s.Owner))}
		if f.filter.table != nil {
			f.filter.rules, f.filter.err = rs.rules(tableName(s.Owner))
		}
	}
	return out, nil
}

// observeInside reads all namespaces, on one thread of its own. The calling thread is in
// the network namespace in which the bundle's ends lie.
func (w *Walls) observeInside(ctx context.Context, walls []facts) error {
	if len(walls) == 0 {
		return nil
	}
	node, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer node.Close()
	own, err := threadsNetNS()
	if err != nil {
		return err
	}
	return ownthread.Run(func() error { return readInsides(ctx, walls, node, own) })
}

// readInsides reads all namespaces. node is a handle where the bundle's ends lie, and own
// are namespaces that are no wall's. The calling thread moves on for good.
func readInsides(ctx context.Context, walls []facts, node *netlink.Handle, own ...host.NetNS) error {
	for i := range walls {
		if err := ctx.Err(); err != nil {
			return err
		}
		f := &walls[i]
		var ns *os.File
		ns, f.kind, f.id, f.inside.err = openNetNS(f.path)
		if ns == nil {
			continue
		}
		if f.node = slices.Contains(own, f.id); !f.node {
			f.inside = readInside(node, ns)
		}
		ns.Close()
	}
	return nil
}

// readInside reads one namespace. The calling thread enters it for good.
func readInside(node *netlink.Handle, ns *os.File) insideFacts {
	peersNS, err := node.GetNetNsIdByFd(int(ns.Fd()))
	if err != nil {
		return insideFacts{err: err}
	}
	h, err := handleIn(ns)
	if err != nil {
		return insideFacts{err: err}
	}
	defer h.Close()
	in := readThrough(h)
	in.peersNS = peersNS
	return in
}

// readThrough reads the namespace of a handle.
func readThrough(h *netlink.Handle) (in insideFacts) {
	links, err := dump(h.LinkList)
	if err != nil {
		in.err = fmt.Errorf("list links: %w", err)
		return in
	}
	for _, l := range links {
		in.links = append(in.links, attrsOf(l))
	}
	addresses, err := dump(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		in.err = fmt.Errorf("list addresses: %w", err)
		return in
	}
	for _, a := range addresses {
		ip, _ := netip.AddrFromSlice(a.IP)
		bits, _ := a.Mask.Size()
		in.addresses = append(in.addresses, netip.PrefixFrom(ip.Unmap(), bits))
	}
	in.routes, err = dump(func() ([]netlink.Route, error) {
		return h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		in.err = fmt.Errorf("list routes: %w", err)
	}
	return in
}

// few is the largest number of walls for which links are read by name. For more
// walls, it is cheaper to list all links of the node.
const few = 8

// linksOf returns links of the node by name, including all those of the specs.
func linksOf(specs []host.WallSpec) (map[string]*attrs, error) {
	if len(specs) > few {
		return linksByName()
	}
	out := map[string]*attrs{}
	for _, s := range specs {
		for _, name := range []string{s.Owner.Veth(), s.Owner.Bridge()} {
			l, err := netlink.LinkByName(name)
			if errors.As(err, &netlink.LinkNotFoundError{}) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("link %s: %w", name, err)
			}
			if a := attrsOf(l); a.name == name { // otherwise name is only an alternative name
				out[name] = &a
			}
		}
	}
	return out, nil
}

func attrsOf(l netlink.Link) attrs {
	a := l.Attrs()
	return attrs{
		name: a.Name, kind: l.Type(), alias: a.Alias, index: a.Index, parent: a.ParentIndex, master: a.MasterIndex,
		mtu: a.MTU, peersNS: a.NetNsID, up: a.RawFlags&unix.IFF_UP != 0, xdp: a.Xdp != nil && a.Xdp.Attached, mac: a.HardwareAddr.String(),
	}
}

// hooks are the base chains on one device.
type hooks []chain

// hooksOf groups the base chains of all tables by device.
func hooksOf(tables map[string]*table) map[string]hooks {
	out := map[string]hooks{}
	for _, t := range tables {
		for _, c := range t.chains {
			if !c.base || c.hook != unix.NF_NETDEV_INGRESS || t.dormant {
				continue
			}
			for _, dev := range c.devices {
				out[dev] = append(out[dev], c)
			}
		}
	}
	return out
}

// before returns the names of the chains of other tables that run before the
// wall's chain. A chain of equal priority that was added later runs before it,
// too.
func (h hooks) before(own string) (names []string) {
	for _, c := range h {
		if c.table != own && c.priority <= int32(*priority) {
			names = append(names, c.table+" "+c.name)
		}
	}
	slices.Sort(names)
	return names
}

// dump reads a list again if it changed while it was read.
func dump[T any](list func() ([]T, error)) (out []T, err error) {
	for range dumpTries {
		out, err = list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return out, err
}
