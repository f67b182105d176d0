// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/subnet"
)

// All functions in this file work in the network namespace of the calling thread.

// defaultMTU is the MTU of a bridge unless one of the Pod's links has a lower one.
const defaultMTU = 1500

// unfinishedPrefix is the prefix of a bridge's name until it has its mark, so that every
// bridge with its final name has one.
const unfinishedPrefix = "bbnew-"

// bridge is a bridge of ours as observed.
type bridge struct {
	link   netlink.Link
	marked host.Network // what its mark says
}

// findBridge returns the owner's bridge. It returns ErrNotFound when there is none, and
// ErrConflict when a link with its name belongs to someone else.
func findBridge(owner host.Owner) (bridge, error) {
	b, err := anyBridge(owner)
	if err == nil && !marked(b.marked, owner) {
		err = foreignLink(b.link)
	}
	if err != nil {
		return bridge{}, err
	}
	return b, nil
}

// anyBridge is like findBridge, but also returns a bridge whose mark names another owner.
func anyBridge(owner host.Owner) (bridge, error) {
	link, err := netlink.LinkByName(owner.Bridge())
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return bridge{}, fmt.Errorf("link %s: %w", owner.Bridge(), host.ErrNotFound)
	}
	if err != nil {
		return bridge{}, fmt.Errorf("look for link %s: %w", owner.Bridge(), err)
	}
	b := bridge{link: link}
	var ok bool
	if b.marked, ok = parseMark(link.Attrs().Alias); !ok || link.Type() != "bridge" {
		return bridge{}, foreignLink(link)
	}
	return b, nil
}

func foreignLink(link netlink.Link) error {
	return fmt.Errorf("link %s (%s, alias %q): %w", link.Attrs().Name, link.Type(), printable(link.Attrs().Alias, 255), host.ErrConflict)
}

// network returns the network of the bridge, without its Gateway if the bridge has a fault.
// A long node name is only a digest in the mark. If it is the digest of the owner's node,
// network returns the full name.
func (b bridge) network(owner host.Owner) host.Network {
	n := b.marked
	cluster, node := n.Owner.Cluster, n.Owner.Node
	if node == nodeMark(owner.Node) {
		node = owner.Node
	}
	n.Owner = owner
	n.Owner.Cluster, n.Owner.Node = cluster, node
	if b.fault() != nil {
		n.Gateway = netip.Addr{}
	}
	return n
}

// makeBridge makes the bridge. The bridge gets its final name once it has its mark, and is
// set up once its forwarding is off.
func makeBridge(n host.Network, triple subnet.Triple) error {
	mtu, err := podMTU(n.Owner)
	if err != nil {
		return err
	}
	unfinished := unfinishedPrefix + n.Owner.UID8()
	if old, err := netlink.LinkByName(unfinished); err == nil {
		if err := netlink.LinkDel(old); err != nil {
			return fmt.Errorf("delete unfinished bridge: %w", err)
		}
	}
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{
		Name: unfinished, HardwareAddr: host.BundleMAC(triple.BundleIP), MTU: mtu, TxQLen: -1,
	}}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("create bridge: %w", err)
	}
	if err := netlink.LinkSetAlias(link, markOf(n)); err != nil {
		return fmt.Errorf("mark bridge: %w", err)
	}
	if err := netlink.LinkSetName(link, n.Owner.Bridge()); err != nil {
		return fmt.Errorf("name bridge: %w", err)
	}
	made, err := findBridge(n.Owner)
	if err != nil {
		return err
	}
	return made.repair()
}

// repair corrects what differs from the bridge that makeBridge makes, and reads it back.
func (b bridge) repair() error {
	triple, err := subnet.TripleOf(b.marked.Subnet)
	if err != nil {
		return err
	}
	name := b.link.Attrs().Name
	for _, s := range settings(name) {
		if err := s.write(); err != nil {
			return err
		}
	}
	mtu, err := podMTU(b.owner())
	if err != nil {
		return err
	}
	if mac := host.BundleMAC(triple.BundleIP); b.link.Attrs().HardwareAddr.String() != mac.String() {
		if err := netlink.LinkSetHardwareAddr(b.link, mac); err != nil {
			return fmt.Errorf("set the MAC address: %w", err)
		}
	}
	if b.link.Attrs().MTU > mtu {
		if err := netlink.LinkSetMTU(b.link, mtu); err != nil {
			return fmt.Errorf("set the MTU: %w", err)
		}
	}
	if err := b.setAddress(triple); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(b.link); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	again, err := netlink.LinkByIndex(b.link.Attrs().Index)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	return bridge{link: again, marked: b.marked}.fault()
}

// owner returns an owner from which only the names of the bridge and of its link follow.
func (b bridge) owner() host.Owner { return host.Owner{UID: b.marked.Owner.UID} }

// setAddress gives the bridge its address, and removes all others.
func (b bridge) setAddress(t subnet.Triple) error {
	addresses, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(b.link, unix.AF_UNSPEC) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	have := false
	for _, a := range addresses {
		if isAddress(a, t) {
			have = true
			continue
		}
		if err := netlink.AddrDel(b.link, &a); err != nil {
			return fmt.Errorf("remove address %s: %w", a.IPNet, err)
		}
	}
	if have {
		return nil
	}
	err = netlink.AddrAdd(b.link, &netlink.Addr{IPNet: hostNet(t.BundleIP), Peer: hostNet(t.MachineIP)})
	if err != nil {
		return fmt.Errorf("add address %s peer %s: %w", t.BundleIP, t.MachineIP, err)
	}
	return nil
}

// isAddress reports whether a is the bundle's address with the machine as its peer.
func isAddress(a netlink.Addr, t subnet.Triple) bool {
	return a.IPNet != nil && a.IP.Equal(t.BundleIP.AsSlice()) && a.Peer != nil && a.Peer.String() == hostNet(t.MachineIP).String()
}

func hostNet(ip netip.Addr) *net.IPNet {
	return &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())}
}

// fault returns an error that says how the bridge differs from what makeBridge makes; nil
// if it does not differ.
func (b bridge) fault() error {
	a := b.link.Attrs()
	triple, err := subnet.TripleOf(b.marked.Subnet)
	if err != nil {
		return err
	}
	for _, s := range settings(a.Name) {
		if err := s.check(); err != nil {
			return err
		}
	}
	mtu, err := podMTU(b.owner())
	if err != nil {
		return err
	}
	addresses, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(b.link, unix.AF_UNSPEC) })
	switch {
	case err != nil:
		return fmt.Errorf("list addresses: %w", err)
	case len(addresses) != 1 || !isAddress(addresses[0], triple):
		return fmt.Errorf("its addresses are %v, want only %s peer %s", addresses, triple.BundleIP, triple.MachineIP)
	case a.HardwareAddr.String() != host.BundleMAC(triple.BundleIP).String():
		return fmt.Errorf("its MAC address is %s, want %s", a.HardwareAddr, host.BundleMAC(triple.BundleIP))
	case a.MTU > mtu:
		return fmt.Errorf("its MTU is %d, want at most %d, as the Pod's other links have", a.MTU, mtu)
	case a.Flags&net.FlagUp == 0:
		return errors.New("it is down")
	}
	return nil
}

// podMTU returns the largest MTU that the bridge may have: the lowest of the Pod's own
// links that are up, so that a packet that fits through one link fits through all.
func podMTU(owner host.Owner) (int, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return 0, fmt.Errorf("list links: %w", err)
	}
	mtu := defaultMTU
	for _, l := range links {
		a := l.Attrs()
		switch {
		case a.Flags&net.FlagUp == 0, a.Flags&net.FlagLoopback != 0, a.MTU <= 0:
		case a.Name == owner.Bridge(), a.Name == owner.Veth(), a.MasterIndex != 0:
		default:
			mtu = min(mtu, a.MTU)
		}
	}
	return mtu, nil
}

// setting is a kernel setting of a link.
type setting struct {
	path, value string
	// optional: kernels without IPv6 have no such file.
	optional bool
}

// settings returns the settings of the bridge. /proc/sys/net shows the network namespace
// of the thread that opens a file.
func settings(link string) []setting {
	return []setting{
		// Without the wall's filter, a machine could otherwise use the Pod as a router.
		{path: "/proc/sys/net/ipv4/conf/" + link + "/forwarding", value: "0"},
		{path: "/proc/sys/net/ipv6/conf/" + link + "/addr_gen_mode", value: "1", optional: true}, // none
		{path: "/proc/sys/net/ipv6/conf/" + link + "/disable_ipv6", value: "1", optional: true},
	}
}

func (s setting) check() error {
	data, err := os.ReadFile(s.path)
	if s.optional && errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(string(data)); got != s.value {
		return fmt.Errorf("%s is %q, want %q", s.path, got, s.value)
	}
	return nil
}

// write writes the setting unless it has the value.
func (s setting) write() error {
	if s.check() == nil {
		return nil
	}
	return os.WriteFile(s.path, []byte(s.value), 0)
}
