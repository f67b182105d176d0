// SPDX-License-Identifier: Apache-2.0

// Package nodeaddr finds out which addresses are the node's own. It does not
// decide what may be done with them, and knows nothing of addresses that a
// firewall translates into the node's.
package nodeaddr

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dumpTries is the number of attempts to read one of the kernel's lists
// that changes while it is read.
const dumpTries = 5

// Local returns the addresses of all interfaces in the network namespace of the
// calling thread, as they are now: IPv4 and IPv6, loopback and link-local ones
// too, without zones, sorted, each once. An error means that the list is not
// known.
func Local() ([]netip.Addr, error) {
	list, err := Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the node's addresses: %w", err)
	}
	var out []netip.Addr
	for _, a := range list {
		addr, ok := addrOf(a.IPNet)
		if !ok {
			return nil, fmt.Errorf("list the node's addresses: invalid address %s", a)
		}
		out = append(out, addr)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}

// Dump reads one of the kernel's lists, again if it changed while it was read.
func Dump[T any](list func() ([]T, error)) (out []T, err error) {
	for range dumpTries {
		out, err = list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return out, err
}

func addrOf(n *net.IPNet) (netip.Addr, bool) {
	if n == nil {
		return netip.Addr{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	return addr.Unmap(), ok
}

// IsLocal reports whether packets to a stay on the node now. That is true of the
// addresses that Local returns, and of whole networks that a route of type "local" gives
// to the node. A network that cannot be reached is not local.
func IsLocal(a netip.Addr) (bool, error) {
	a = a.Unmap().WithZone("")
	own, err := Local()
	if err != nil || slices.Contains(own, a) {
		return err == nil, err
	}
	routes, err := netlink.RouteGet(a.AsSlice())
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EACCES), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EOPNOTSUPP):
		// There is no route, or one that refuses, or no IPv6: nothing is sent.
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look up the route to %s: %w", a, err)
	}
	return slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Type == unix.RTN_LOCAL }), nil
}
