// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/subnet"
)

// Networks implements host.Networks with a bridge in the network namespace of each
// Bottle's Pod. The networks of several Bottles may overlap. ErrNotFound also means that
// the Pod does not run, and ErrConflict that it uses the node's network.
type Networks struct{ r *Runtime }

// InspectNetwork implements host.Networks. If the bridge differs from what EnsureNetwork
// makes, the network has no Gateway, so that the caller sees a difference.
func (n *Networks) InspectNetwork(ctx context.Context, owner host.Owner) (out host.Network, err error) {
	err = n.r.inPod(ctx, owner, func(Pod) error {
		found, err := findBridge(owner)
		if err == nil {
			out = found.network(owner)
		}
		return err
	})
	if err != nil {
		return host.Network{}, networkError(owner, err)
	}
	return out, nil
}

// EnsureNetwork implements host.Networks. It never returns ErrOverlap. It replaces a bridge
// of another network, and corrects only what differs in a bridge of this one.
func (n *Networks) EnsureNetwork(ctx context.Context, want host.Network) error {
	triple, err := subnet.TripleOf(want.Subnet)
	if err != nil {
		return fmt.Errorf("network of %s: %w: %w", want.Owner.ID(), host.ErrInvalid, err)
	}
	err = n.r.inPod(ctx, want.Owner, func(Pod) error {
		found, err := findBridge(want.Owner)
		switch {
		case errors.Is(err, host.ErrNotFound):
			return makeBridge(want, triple)
		case err != nil:
			return err
		case found.marked.Subnet != want.Subnet || found.marked.Gateway != want.Gateway:
			if err := netlink.LinkDel(found.link); err != nil {
				return fmt.Errorf("delete: %w", err)
			}
			return makeBridge(want, triple)
		}
		return found.repair()
	})
	return networkError(want.Owner, err)
}

// DeleteNetwork implements host.Networks.
func (n *Networks) DeleteNetwork(ctx context.Context, owner host.Owner) error {
	err := n.r.inPod(ctx, owner, func(Pod) error {
		found, err := findBridge(owner)
		if err != nil {
			return err
		}
		return netlink.LinkDel(found.link)
	})
	if absent(err) {
		return nil
	}
	return networkError(owner, err)
}

// ListNetworks implements host.Networks. It leaves out the networks of Pods that end
// meanwhile.
func (n *Networks) ListNetworks(ctx context.Context) ([]host.Network, error) {
	pods, err := n.r.Pods(ctx)
	if err != nil {
		return nil, err
	}
	var out []host.Network
	for _, p := range pods {
		if !p.Ready {
			continue
		}
		err := n.r.inPod(ctx, p.Owner, func(Pod) error {
			found, err := anyBridge(p.Owner)
			if err == nil {
				out = append(out, found.network(p.Owner))
			}
			return err
		})
		if err != nil && !absent(err) {
			return nil, networkError(p.Owner, err)
		}
	}
	return out, nil
}

// OccupiedPrefixes implements host.Networks: the addresses of the owner's Pod, and then the
// gateways of its routes. Its other neighbours do not matter, because only the bundle's and
// the machine's address are used, and nothing is routed to the rest of the subnet.
func (n *Networks) OccupiedPrefixes(ctx context.Context, owner host.Owner) (out []netip.Prefix, err error) {
	err = n.r.inPod(ctx, owner, func(p Pod) error {
		for _, ip := range p.IPs {
			out = appendAddr(out, ip)
		}
		found, err := occupied(owner.Bridge())
		out = append(out, found...)
		return err
	})
	if err != nil {
		return nil, networkError(owner, err)
	}
	seen := map[netip.Prefix]bool{}
	return slices.DeleteFunc(out, func(p netip.Prefix) bool {
		again := seen[p]
		seen[p] = true
		return again
	}), nil
}

// occupied reads the IPv4 addresses and gateways of the thread's namespace, except those of
// the bridge.
func occupied(bridge string) (out []netip.Prefix, err error) {
	own := -1
	link, err := netlink.LinkByName(bridge)
	if err == nil {
		own = link.Attrs().Index
	} else if !errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, err
	}
	addresses, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, unix.AF_INET) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addresses {
		if a.LinkIndex == own || a.IP.IsLoopback() {
			continue
		}
		out = appendIP(out, a.IP)
		if a.Peer != nil {
			if ones, bits := a.Peer.Mask.Size(); ones == bits {
				out = appendIP(out, a.Peer.IP) // the far end of a point-to-point link
			}
		}
	}
	routes, err := dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.LinkIndex == own {
			continue
		}
		out = appendIP(out, r.Gw)
		for _, hop := range r.MultiPath {
			out = appendIP(out, hop.Gw)
		}
	}
	return out, nil
}

func appendIP(out []netip.Prefix, ip []byte) []netip.Prefix {
	if a, ok := netip.AddrFromSlice(ip); ok {
		return appendAddr(out, a.Unmap())
	}
	return out
}

func appendAddr(out []netip.Prefix, ip netip.Addr) []netip.Prefix {
	if !ip.Is4() {
		return out
	}
	return append(out, netip.PrefixFrom(ip, ip.BitLen()))
}

// dumpTries is the number of attempts to read a kernel list that changes while it is read.
const dumpTries = 5

func dump[T any](list func() ([]T, error)) (out []T, err error) {
	for range dumpTries {
		out, err = list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return out, err
}

func networkError(owner host.Owner, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("network %s in Pod %s/%s: %w", owner.Bridge(), owner.Namespace, owner.ID(), err)
}

func absent(err error) bool {
	return errors.Is(err, host.ErrNotFound) || errors.Is(err, host.ErrConflict)
}
