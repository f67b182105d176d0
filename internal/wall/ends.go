// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"bytes"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

// addrGenNone is IN6_ADDR_GEN_MODE_NONE: the kernel gives the link no address.
const addrGenNone = 1

func (r *repair) removeExtras() error {
	return deleteLinks(r.in, func(l attrs) bool { return l.name != innerName && !harmless(l) })
}

// deleteLinks deletes links in a namespace. It sets the kernel's own tunnels down
// instead, because nobody can delete them.
func deleteLinks(h *netlink.Handle, which func(attrs) bool) error {
	links, err := dump(h.LinkList)
	if err != nil {
		return fmt.Errorf("list links in the namespace: %w", err)
	}
	for _, l := range links {
		a := attrsOf(l)
		if !which(a) {
			continue
		}
		if fallbacks[a.name] == a.kind {
			err = h.LinkSetDown(l)
		} else {
			err = h.LinkDel(l)
		}
		if err != nil && !errors.Is(err, unix.ENODEV) { // deleting its peer may have deleted it
			return fmt.Errorf("delete link %q in the namespace: %w", a.name, err)
		}
	}
	return nil
}

func (r *repair) loopback() error {
	lo, err := r.in.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("lo in the namespace: %w", err)
	}
	if a := attrsOf(lo); a.alias != markOf(r.spec.Owner) {
		err = r.in.LinkSetAlias(lo, markOf(r.spec.Owner))
	}
	if err == nil && attrsOf(lo).up {
		err = r.in.LinkSetDown(lo)
	}
	if err != nil {
		return fmt.Errorf("lo in the namespace: %w", err)
	}
	return nil
}

func (r *repair) inner() error {
	l, err := r.in.LinkByName(innerName)
	if err != nil {
		return fmt.Errorf("%s: %w", innerName, err)
	}
	a, mac := l.Attrs(), machineMAC(r.spec.Owner)
	var errs []error
	if !bytes.Equal(a.HardwareAddr, mac) {
		errs = append(errs, r.in.LinkSetHardwareAddr(l, mac))
	}
	if a.MTU != r.facts.bridge.mtu {
		errs = append(errs, r.in.LinkSetMTU(l, r.facts.bridge.mtu))
	}
	if !attrsOf(l).up {
		errs = append(errs, quietLink(r.in, l), r.address(l), r.in.LinkSetUp(l))
	} else {
		errs = append(errs, r.address(l))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%s: %w", innerName, err)
	}
	return nil
}

// quietLink keeps the kernel from giving a link an IPv6 address. A kernel without
// IPv6 refuses the setting and does not need it.
func quietLink(h *netlink.Handle, l netlink.Link) error {
	err := h.LinkSetIP6AddrGenMode(l, addrGenNone)
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

func machineNet(s host.WallSpec) *net.IPNet {
	return &net.IPNet{IP: s.MachineIP.AsSlice(), Mask: net.CIDRMask(s.Subnet.Bits(), 32)}
}

// address makes the machine's address the only one in the namespace.
func (r *repair) address(l netlink.Link) error {
	list, err := dump(func() ([]netlink.Addr, error) { return r.in.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return err
	}
	want := machineNet(r.spec)
	there := false
	for _, a := range list {
		if a.IPNet.String() == want.String() && a.LinkIndex == l.Attrs().Index {
			there = true
			continue
		}
		if err := r.in.AddrDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: a.LinkIndex}}, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("delete address %s: %w", a.IPNet, err)
		}
	}
	if there {
		return nil
	}
	if err := r.in.AddrAdd(l, &netlink.Addr{IPNet: want}); err != nil {
		return fmt.Errorf("add address %s: %w", want, err)
	}
	return nil
}

// routes deletes all routes except those that come with the address, and restores
// those if they were deleted.
func (r *repair) routes() error {
	in := readThrough(r.in)
	if in.err != nil {
		return in.err
	}
	for _, route := range extraRoutes(r.spec, in) {
		if err := r.in.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("delete route %s: %w", route, err)
		}
	}
	if connected(r.spec, in) {
		return nil
	}
	l, err := r.in.LinkByName(innerName)
	if err != nil {
		return fmt.Errorf("%s: %w", innerName, err)
	}
	address := &netlink.Addr{IPNet: machineNet(r.spec)}
	if err := errors.Join(r.in.AddrDel(l, address), r.in.AddrAdd(l, address)); err != nil {
		return fmt.Errorf("add address %s again: %w", address.IPNet, err)
	}
	return nil
}

func (r *repair) bundleEnd() error {
	o := r.spec.Owner
	l, err := netlink.LinkByName(o.Veth())
	if err != nil {
		return fmt.Errorf("link %s: %w", o.Veth(), err)
	}
	a := attrsOf(l)
	var errs []error
	if a.alias != markOf(o) {
		errs = append(errs, netlink.LinkSetAlias(l, markOf(o)))
	}
	if mac := bundleEndMAC(o); a.mac != mac.String() {
		errs = append(errs, netlink.LinkSetHardwareAddr(l, mac))
	}
	if a.mtu != r.facts.bridge.mtu {
		errs = append(errs, netlink.LinkSetMTU(l, r.facts.bridge.mtu))
	}
	if a.master != r.facts.bridge.index {
		errs = append(errs, netlink.LinkSetMasterByIndex(l, r.facts.bridge.index))
	}
	if !a.up && errors.Join(errs...) == nil {
		errs = append(errs, quietLink(&netlink.Handle{}, l), netlink.LinkSetUp(l))
	}
	err = errors.Join(errs...)
	if errors.Is(err, unix.ENODEV) { // the bridge was deleted meanwhile
		return fmt.Errorf("link %s: %w: %w", o.Veth(), host.ErrNotFound, err)
	}
	if err != nil {
		return fmt.Errorf("link %s: %w", o.Veth(), err)
	}
	return nil
}

// deleteLink deletes a link of the node. It returns nil if there is none.
func deleteLink(name string) error {
	l, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil && l.Attrs().Name != name { // name is only an alternative name of it
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}
