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

// facts are what was found of one wall. Nothing in them is judged yet.
type facts struct {
	path string
	kind fileKind
	id   host.NetNS
	// node: the file leads into the namespace that we are in ourselves.
	node bool
	// nodeEnd and bridge are the links of these names; nil: there is none.
	nodeEnd, bridge *attrs
	filter          filterFacts
	inside          insideFacts
}

// attrs is what we want to know of a link.
type attrs struct {
	name, kind, alias    string
	index, parent        int
	master, mtu, peersNS int
	up, xdp              bool
	mac                  string
}

// filterFacts is the wall's table, and who else hooks on the wall's link.
type filterFacts struct {
	table *table // nil: there is none
	rules []writtenRule
	// earlier are the chains of other tables that see packets before ours.
	earlier []string
	err     error
}

// digest is of the rules as read, which do not depend on counts; "" is none.
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

// insideFacts is what is in the namespace.
type insideFacts struct {
	links     []attrs
	addresses []netip.Prefix
	routes    []netlink.Route
	// peersNS is the number by which the node knows the namespace, -1: none.
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

// look reads walls back, in the order of specs.
func (w *Walls) look(ctx context.Context, specs []host.WallSpec) ([]facts, error) {
	links, err := linksOf(specs)
	if err != nil {
		return nil, err
	}
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
		f.nodeEnd, f.bridge = links[s.Owner.Veth()], links[s.Owner.Bridge()]
		f.filter = filterFacts{table: tables[tableName(s.Owner)], earlier: hooks[s.Owner.Veth()].before(tableName(s.Owner))}
		if f.filter.table != nil {
			f.filter.rules, f.filter.err = rs.rules(tableName(s.Owner))
		}
	}
	return out, w.lookInside(ctx, out)
}

// lookInside goes through the namespaces, all on one thread.
func (w *Walls) lookInside(ctx context.Context, walls []facts) error {
	self, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer self.Close()
	_, own, err := kindOf(int(self.Fd()))
	if err != nil {
		return err
	}
	node, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer node.Close()
	return ownthread.Run(func() error {
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
			if f.node = f.id == own; !f.node {
				f.inside = readInside(node, ns)
			}
			ns.Close()
		}
		return nil
	})
}

// readInside reads one namespace, into which the thread goes.
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

// readThrough reads the namespace that a handle leads into.
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

// few is up to how many walls' links are asked for by name. From there on it is
// cheaper to list those of the whole node.
const few = 8

// linksOf are the links of the node by name, those of the specs among them.
func linksOf(specs []host.WallSpec) (map[string]*attrs, error) {
	if len(specs) > few {
		return nodeLinks()
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
			if a := attrsOf(l); a.name == name { // else that is only an alternative name
				out[name] = &a
			}
		}
	}
	return out, nil
}

// nodeLinks are all links of the node by name.
func nodeLinks() (map[string]*attrs, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list the node's links: %w", err)
	}
	out := make(map[string]*attrs, len(links))
	for _, l := range links {
		a := attrsOf(l)
		out[a.name] = &a
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

// hooksOf sorts the base chains of all tables by device.
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

// before names the chains of other tables that run before a chain of the
// wall's: one of equal priority that came later does, too.
func (h hooks) before(own string) (names []string) {
	for _, c := range h {
		if c.table != own && c.priority <= int32(*priority) {
			names = append(names, c.table+" "+c.name)
		}
	}
	slices.Sort(names)
	return names
}

// dump reads a list again when others changed it meanwhile.
func dump[T any](list func() ([]T, error)) (out []T, err error) {
	for range dumpTries {
		out, err = list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return out, err
}
