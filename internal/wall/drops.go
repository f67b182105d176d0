// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

// Drops implements host.Walls.
func (w *Walls) Drops(ctx context.Context, owner host.Owner) ([]host.Drop, error) {
	if err := errors.Join(checkOwner(owner), ctx.Err()); err != nil {
		return nil, err
	}
	rs, err := openRuleset()
	if err != nil {
		return nil, err
	}
	defer rs.close()
	var drops []host.Drop
	for _, set := range []string{setARP, setIPv4, setIPv6, setEther} {
		elements, err := rs.elements(tableName(owner), set)
		if err != nil {
			return nil, missing(owner, err)
		}
		for _, e := range elements {
			if d, ok := dropOf(set, e); ok {
				drops = append(drops, d)
			}
		}
	}
	return inOrder(drops), nil
}

// ForgetDrops implements host.Walls.
func (w *Walls) ForgetDrops(ctx context.Context, owner host.Owner) error {
	if err := errors.Join(checkOwner(owner), ctx.Err()); err != nil {
		return err
	}
	c, err := nftables.New()
	if err != nil {
		return err
	}
	for _, set := range setsOf(&nftables.Table{Family: nftables.TableFamilyNetdev, Name: tableName(owner)}) {
		c.FlushSet(set)
	}
	if err := c.Flush(); err != nil {
		return missing(owner, err)
	}
	if err := forgetNeighbours(w.path(owner)); err != nil {
		return fmt.Errorf("neighbours of wall %s: %w", owner.ID(), err)
	}
	return nil
}

// forgetNeighbours clears the namespace's neighbours, so that it sends ARP
// requests again. While it waits for the answer to a request that was dropped, it
// sends no other, and an attempt in that time would leave no trace.
func forgetNeighbours(path string) error {
	ns, _, _, err := openNetNS(path)
	if err != nil || ns == nil {
		return err
	}
	defer ns.Close()
	return inNetNS(ns, func(h *rtnl.Handle) error {
		list, err := dump(func() ([]rtnl.Neigh, error) { return h.NeighList(0, rtnl.FAMILY_V4) })
		if err != nil {
			return err
		}
		for _, n := range list {
			if err := h.NeighDel(&n); err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
		return nil
	})
}

func missing(owner host.Owner, err error) error {
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("filter %s of wall %s: %w", tableName(owner), owner.ID(), host.ErrNotFound)
	}
	return fmt.Errorf("filter %s of wall %s: %w", tableName(owner), owner.ID(), err)
}

// inOrder sorts drops and removes duplicates: a list that changes while it is read
// may contain an entry twice.
func inOrder(drops []host.Drop) []host.Drop {
	slices.SortFunc(drops, func(a, b host.Drop) int {
		return cmp.Or(cmp.Compare(a.Proto, b.Proto), a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port), cmp.Compare(b.Packets, a.Packets))
	})
	return slices.CompactFunc(drops, func(a, b host.Drop) bool {
		return a.Proto == b.Proto && a.Addr == b.Addr && a.Port == b.Port
	})
}

// element is one element of a set: its key and how many packets it counted.
type element struct {
	key     []byte
	packets uint64
}

// elements returns the elements of a set.
func (r *ruleset) elements(table, set string) ([]element, error) {
	filter, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: append([]byte(table), 0)},
		{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: append([]byte(set), 0)},
	})
	if err != nil {
		return nil, err
	}
	messages, err := r.dump(unix.NFT_MSG_GETSETELEM, filter)
	if err != nil {
		return nil, fmt.Errorf("list nftables set %s: %w", set, err)
	}
	var out []element
	for _, m := range messages {
		attributes(m, func(kind uint16, list []byte) {
			if kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				return
			}
			attributes(list, func(_ uint16, e []byte) { out = append(out, parseElement(e)) })
		})
	}
	return out, nil
}

func parseElement(b []byte) (e element) {
	attributes(b, func(kind uint16, b []byte) {
		switch kind {
		case unix.NFTA_SET_ELEM_KEY:
			attributes(b, func(_ uint16, value []byte) { e.key = value })
		case unix.NFTA_SET_ELEM_EXPR:
			_, e.packets = appendExpr(nil, b)
		}
	})
	return e
}

// dropOf converts an element of a set to a destination.
func dropOf(set string, e element) (d host.Drop, ok bool) {
	d.Packets = e.packets
	switch {
	case set == setARP && len(e.key) == 4:
		d.Proto, d.Addr = "arp", addrOf(e.key)
	case set == setIPv4 && len(e.key) == 12:
		d.Proto, d.Addr, d.Port = protoName(e.key[4]), addrOf(e.key[:4]), binary.BigEndian.Uint16(e.key[8:])
	case set == setIPv6 && len(e.key) == 24:
		d.Proto, d.Addr, d.Port = protoName(e.key[16]), addrOf(e.key[:16]), binary.BigEndian.Uint16(e.key[20:])
	case set == setEther && len(e.key) >= 2:
		d.Proto = fmt.Sprintf("0x%04x", binary.BigEndian.Uint16(e.key))
	default:
		return d, false
	}
	return d, true
}

func protoName(proto byte) string {
	switch proto {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_ICMP:
		return "icmp"
	case unix.IPPROTO_ICMPV6:
		return "icmpv6"
	}
	return strconv.Itoa(int(proto))
}
