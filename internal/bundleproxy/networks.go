// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// interfaceNetworks returns the networks of this host's interfaces, sorted.
func interfaceNetworks() ([]netip.Prefix, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("read the network interfaces: %w", err)
	}
	var out []netip.Prefix
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok {
			return nil, fmt.Errorf("read the network interfaces: unknown type of address %T", a)
		}
		addr, ok := netip.AddrFromSlice(n.IP)
		bits, _ := n.Mask.Size()
		if !ok || bits < 0 {
			return nil, fmt.Errorf("read the network interfaces: invalid address %s", n)
		}
		prefix, err := addr.Unmap().Prefix(bits)
		if err != nil {
			return nil, fmt.Errorf("read the network interfaces: %s: %w", n, err)
		}
		out = append(out, prefix)
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out), nil
}
