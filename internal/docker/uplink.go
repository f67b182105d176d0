// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// uplinkMTU returns the largest MTU that a bundle's network may have, in bytes: the
// lowest MTU of the node's IPv4 default routes and of the interfaces that they lead
// through, and at most docker's default. It reads the network namespace that this
// process is in.
//
// A bundle with a larger MTU announces that it accepts larger segments. The node then
// depends on ICMP messages from it to their sender, and many networks drop these:
// small answers arrive, and large ones never do.
func uplinkMTU() (int, error) {
	routes, err := dump(func() ([]netlink.Route, error) {
		// Read every table: a VPN's routes are often in a table of its own.
		return netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return 0, fmt.Errorf("list the node's routes: %w", err)
	}
	mtu := defaultMTU
	lower := func(to int) {
		if to > 0 {
			mtu = min(mtu, to)
		}
	}
	for _, r := range routes {
		if !isDefault(r.Dst) || r.Type != unix.RTN_UNICAST {
			continue
		}
		lower(r.MTU)
		links := []int{r.LinkIndex}
		for _, hop := range r.MultiPath {
			links = append(links, hop.LinkIndex)
		}
		for _, index := range links {
			to, err := linkMTU(index)
			if err != nil {
				return 0, err
			}
			lower(to)
		}
	}
	return mtu, nil
}

// isDefault reports whether a route leads to all addresses, or to one half of them:
// some VPNs use two such routes instead of a default route.
func isDefault(n *net.IPNet) bool {
	if n == nil {
		return true
	}
	bits, size := n.Mask.Size()
	return size != 0 && bits <= 1
}

// linkMTU returns the MTU of an interface, or 0 if there is none.
func linkMTU(index int) (int, error) {
	if index == 0 {
		return 0, nil // a route with several hops
	}
	link, err := netlink.LinkByIndex(index)
	var absent netlink.LinkNotFoundError
	switch {
	case errors.As(err, &absent):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("look for the interface of a default route: %w", err)
	}
	return link.Attrs().MTU, nil
}
