// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

// dumpTries is the number of attempts to read a kernel list that changes while
// it is read.
const dumpTries = 5

// OccupiedPrefixes implements host.Networks. It uses the IPv4 addresses and
// routes of the network namespace that this process is in.
func (e *Engine) OccupiedPrefixes(ctx context.Context, owner host.Owner) ([]netip.Prefix, error) {
	out, err := e.dockerPrefixes(ctx, owner)
	if err != nil {
		return nil, err
	}
	own := -1
	link, err := netlink.LinkByName(owner.Bridge())
	var absent netlink.LinkNotFoundError
	switch {
	case err == nil:
		own = link.Attrs().Index
	case !errors.As(err, &absent):
		return nil, fmt.Errorf("look for bridge %s: %w", owner.Bridge(), err)
	}
	addresses, err := nodeAddresses(own)
	if err != nil {
		return nil, err
	}
	routes, err := nodeRoutes(own)
	if err != nil {
		return nil, err
	}
	out = append(append(out, addresses...), routes...)
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	return slices.Compact(out), nil
}

func nodeAddresses(own int) ([]netip.Prefix, error) {
	addresses, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, unix.AF_INET) })
	if err != nil {
		return nil, fmt.Errorf("list the node's addresses: %w", err)
	}
	var out []netip.Prefix
	for _, a := range addresses {
		if a.LinkIndex == own {
			continue
		}
		out = appendPrefix(out, a.IPNet)
		// Peer is the far end of a point-to-point link.
		out = appendPrefix(out, a.Peer)
	}
	return out, nil
}

func nodeRoutes(own int) ([]netip.Prefix, error) {
	routes, err := dump(func() ([]netlink.Route, error) {
		// Read every table: a VPN's routes are often in a table of its own.
		return netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list the node's routes: %w", err)
	}
	var out []netip.Prefix
	for _, r := range routes {
		if r.LinkIndex == own {
			continue
		}
		out = appendPrefix(out, r.Dst)
		// A gateway need not be in any network that the node has a route to.
		out = appendAddr(out, r.Gw)
		for _, hop := range r.MultiPath {
			out = appendAddr(out, hop.Gw)
		}
	}
	return out, nil
}

// appendAddr appends an IPv4 address as a network to out; nil is none.
func appendAddr(out []netip.Prefix, ip net.IP) []netip.Prefix {
	if a, ok := netip.AddrFromSlice(ip.To4()); ok {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out
}

// appendPrefix appends n to out unless n is a default route. The two halves of
// the address space, which some VPNs use instead, also count as default routes.
func appendPrefix(out []netip.Prefix, n *net.IPNet) []netip.Prefix {
	if n == nil {
		return out
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	bits, size := n.Mask.Size()
	if !ok || size == 0 || bits <= 1 {
		return out
	}
	addr = addr.Unmap()
	if bits > addr.BitLen() {
		bits -= 96
	}
	return append(out, netip.PrefixFrom(addr, bits).Masked())
}

func dump[T any](list func() ([]T, error)) (out []T, err error) {
	for range dumpTries {
		out, err = list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return out, err
}
