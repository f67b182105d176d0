// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"net/netip"
)

// WallSpec is the wall that a machine is to run behind: a network namespace
// whose one link leads into the bundle's bridge, and a packet filter at the
// node's end of that link.
type WallSpec struct {
	Owner Owner
	// Subnet is the bundle's network, whose bridge is Owner.Bridge().
	Subnet netip.Prefix
	// BundleIP is the one address that may be reached, on the TCP Ports, at the
	// MAC address BundleMAC(BundleIP).
	BundleIP netip.Addr
	Ports    []int32
	// MachineIP is the namespace's own address.
	MachineIP netip.Addr
}

// NetNS tells one network namespace from another, by its file. The zero value
// is none.
type NetNS struct {
	Dev, Inode uint64
}

// WallFault is one thing in which a wall is not as specified.
type WallFault struct {
	// What is stable from call to call and fit for a condition.
	What string
	// Open: while it is so, something other than the bundle's ports could be
	// reached, or may have been.
	Open bool
	// Rules: the filter is in its place and has other rules than are expected.
	Rules bool
}

// Wall is a wall as read back from the kernel.
type Wall struct {
	// NetNS is the namespace; zero when there is none.
	NetNS NetNS
	// Path is the file by which the namespace is entered.
	Path string
	// Err says that this wall could not be read: nothing else of it is known
	// then, and nothing follows.
	Err error
	// Faults are in a fixed order; none: it stands as specified.
	Faults []WallFault
	// Filter is a digest of the filter as read, "" when there is none: a filter
	// that an earlier release of ours wrote is known again by it.
	Filter string
	// Accepted counts packets to the bundle by port since the filter was made;
	// nil while it is not as specified. What made it anew forgot the counts.
	Accepted map[int32]uint64
	// Dropped counts all packets that were not let through since then.
	Dropped uint64
}

// Drop is one destination of dropped packets. Its fields are numbers that the
// guest chose.
type Drop struct {
	// Proto is arp, tcp, udp, icmp, icmpv6, or a number: of IP's in decimal, of
	// Ethernet's as 0x and four digits.
	Proto string
	// Addr is whom an ARP packet asks for, or where another is to go; the zero
	// value for a protocol of Ethernet's.
	Addr netip.Addr
	// Port is set for tcp and udp.
	Port    uint16
	Packets uint64
}

// WallOwner is whose wall stands on the node, as far as its names tell.
type WallOwner struct {
	ID, UID, Cluster string
}

// Walls are the walls of this node's machines. They are made and read through
// the kernel alone: no daemon can hold them up. All methods may be called
// again at any time, and at once for different owners.
type Walls interface {
	// EnsureWall makes the wall stand as specified and returns it as read back.
	// Only what differs is made anew, and never is a link up before its filter
	// is there; a namespace that stands stays the same. ErrNotFound when the
	// bridge is not there, ErrConflict when a namespace, link or table of its
	// name is someone else's, ErrInvalid when no wall can be meant. Faults of
	// what it returns are what it may not mend, such as someone else's chain.
	EnsureWall(ctx context.Context, spec WallSpec) (Wall, error)
	// InspectWalls reads walls back, in the order of specs. It changes nothing,
	// and is cheap enough to be called every second for hundreds. One that is
	// not there at all has no NetNS and a Fault; one that is being made or
	// deleted meanwhile is seen before or after it. An error means that nothing
	// could be found out.
	InspectWalls(ctx context.Context, specs []WallSpec) ([]Wall, error)
	// WatchWalls calls changed soon after something happened to any wall's
	// filter or link, a change of ours included, or to a bundle's bridge, and
	// whenever something may have been missed. It must return soon. What
	// happens in a namespace, and to a machine, is not told. It returns when
	// ctx ends, with its error, or when nothing can be told any more.
	WatchWalls(ctx context.Context, changed func()) error
	// DeleteWall removes filter, link and namespace; absent or someone else's is
	// nil. What still runs in the namespace is left without a link.
	DeleteWall(ctx context.Context, owner Owner) error
	// ListWalls returns all walls that bear our marks, of any cluster, in a fixed
	// order. What is left of one counts.
	ListWalls(ctx context.Context) ([]WallOwner, error)
	// Drops returns the destinations of dropped packets since ForgetDrops, in a
	// fixed order. They are bounded: a flood of destinations hides later ones
	// for some minutes, and one that is not tried again for as long is
	// forgotten. ErrNotFound when there is no filter.
	Drops(ctx context.Context, owner Owner) ([]Drop, error)
	// ForgetDrops empties what Drops returns, and makes sure that the same
	// attempts are seen again; the counts of a Wall go on.
	ForgetDrops(ctx context.Context, owner Owner) error
}
