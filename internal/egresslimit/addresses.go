// SPDX-License-Identifier: Apache-2.0

package egresslimit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/nodeaddr"
)

// bridgePrefix begins the names of the Bottles' bridges (host.Owner).
const bridgePrefix = "bb-"

// Addresses returns what is closed because of the node: the addresses of all
// interfaces in this process's network namespace, the networks that the kernel
// treats as its own addresses (routes of type local in the table local), and the
// networks of the Bottles' bridges.
func Addresses() ([]egress.Closed, error) {
	links, err := nodeaddr.Dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list the node's links: %w", err)
	}
	bridges := map[int]bool{}
	for _, l := range links {
		bridges[l.Attrs().Index] = strings.HasPrefix(l.Attrs().Name, bridgePrefix)
	}
	addresses, err := nodeaddr.Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the node's addresses: %w", err)
	}
	var out []egress.Closed
	for _, a := range addresses {
		p, ok := prefixOf(a.IPNet)
		if !ok {
			continue
		}
		out = append(out, egress.Closed{Network: netip.PrefixFrom(p.Addr(), p.Addr().BitLen()), By: egress.ByNode})
		if bridges[a.LinkIndex] && p.Bits() > 0 {
			out = append(out, egress.Closed{Network: p.Masked(), By: egress.ByBottle})
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := nodeaddr.Dump(func() ([]netlink.Route, error) {
			// Other tables may have local routes that stand for no address: transparent
			// proxies use one for the whole internet.
			local := &netlink.Route{Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL}
			return netlink.RouteListFiltered(family, local, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
		})
		if err != nil {
			return nil, fmt.Errorf("list the node's local routes: %w", err)
		}
		for _, r := range routes {
			if p, ok := prefixOf(r.Dst); ok && p.Bits() > 0 {
				out = append(out, egress.Closed{Network: p.Masked(), By: egress.ByNode})
			}
		}
	}
	return out, nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	bits, size := n.Mask.Size()
	if !ok || size == 0 {
		return netip.Prefix{}, false
	}
	addr = addr.Unmap()
	if bits > addr.BitLen() {
		bits -= 96
	}
	return netip.PrefixFrom(addr, bits), true
}

// Watch calls changed whenever an address or a local route of the network namespace
// that this process is in changes, until ctx ends.
func Watch(ctx context.Context, changed func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lost := make(chan error, 2)
	onError := func(err error) {
		select {
		case lost <- err:
		default:
		}
	}
	addresses := make(chan netlink.AddrUpdate, 64)
	if err := netlink.AddrSubscribeWithOptions(addresses, ctx.Done(), netlink.AddrSubscribeOptions{ErrorCallback: onError}); err != nil {
		return fmt.Errorf("watch addresses: %w", err)
	}
	routes := make(chan netlink.RouteUpdate, 64)
	if err := netlink.RouteSubscribeWithOptions(routes, ctx.Done(), netlink.RouteSubscribeOptions{ErrorCallback: onError}); err != nil {
		return fmt.Errorf("watch routes: %w", err)
	}
	changed() // what happened before the subscription
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-lost:
			return fmt.Errorf("watch addresses: %w", err)
		case _, ok := <-addresses:
			if !ok {
				return errors.New("watch addresses: it ended")
			}
		case r, ok := <-routes:
			if !ok {
				return errors.New("watch routes: it ended")
			}
			if r.Route.Type != unix.RTN_LOCAL {
				continue // a router's routes may change all the time
			}
		}
		changed()
	}
}
