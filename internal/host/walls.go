// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"net/netip"
)

// WallSpec describes the wall around a machine: a network namespace with a
// single link into the bundle's bridge, and a packet filter at the bundle's end of
// that link.
type WallSpec struct {
	Owner Owner
	// Subnet is the bundle's network. Its bridge is Owner.Bridge().
	Subnet netip.Prefix
	// BundleIP is the only address that may be reached, on the TCP Ports, at the
	// MAC address BundleMAC(BundleIP).
	BundleIP netip.Addr
	Ports    []int32
	// MachineIP is the namespace's own address.
	MachineIP netip.Addr
}

// NetNS identifies a network namespace by its file. The zero value is no
// namespace.
type NetNS struct {
	Dev, Inode uint64
}

// WallFault is one way in which a wall differs from its spec.
type WallFault struct {
	// What describes it. The text is stable from call to call and fit for a
	// condition.
	What string
	// Open: with this fault, the machine can or could reach something other than
	// the bundle's ports.
	Open bool
	// Rules: the filter is in place but has unexpected rules.
	Rules bool
}

// Wall is a wall as read back from the kernel.
type Wall struct {
	// NetNS is the namespace; zero when there is none.
	NetNS NetNS
	// Path is the file through which the namespace is entered.
	Path string
	// Err means that this wall could not be read. Nothing else about it is known
	// then, and callers must not conclude anything.
	Err error
	// Faults are in a fixed order. If there are none, the wall is as specified.
	Faults []WallFault
	// Filter is a digest of the filter as read, "" when there is none. It
	// identifies filters that earlier releases of the agent wrote.
	Filter string
	// Accepted counts packets to the bundle by port since the filter was made;
	// nil while the filter is not as specified. Making the filter again resets
	// the counts.
	Accepted map[int32]uint64
	// Dropped counts all packets dropped since the filter was made.
	Dropped uint64
}

// Drop is one destination of dropped packets. The guest chose the values of all
// its fields.
type Drop struct {
	// Proto is arp, tcp, udp, icmp, icmpv6, or a number: an IP protocol in
	// decimal, an EtherType as 0x and four digits.
	Proto string
	// Addr is the address that an ARP packet asks for, or the destination of any
	// other packet; the zero value for an EtherType.
	Addr netip.Addr
	// Port is set for tcp and udp.
	Port    uint16
	Packets uint64
}

// WallOwner is the owner of a wall on the node, as far as its names show.
type WallOwner struct {
	ID, UID, Cluster string
}

// Walls manages the walls of this node's machines. Walls are made and read
// through the kernel only, so no daemon can delay them. All methods may be
// called again at any time, and concurrently for different owners.
type Walls interface {
	// EnsureWall makes the wall match spec and returns it as read back. It makes
	// only the differing parts again, and no link is ever up before its filter is
	// in place. An existing namespace stays the same. EnsureWall returns
	// ErrNotFound when the bridge does not exist, ErrConflict when a namespace,
	// link or table with its name belongs to someone else, and ErrInvalid when
	// spec cannot describe a wall. The returned wall's Faults are those that
	// EnsureWall may not repair, such as someone else's chain.
	EnsureWall(ctx context.Context, spec WallSpec) (Wall, error)
	// InspectWalls reads walls back, in the order of specs. It changes nothing,
	// and is cheap enough to be called every second for hundreds of walls. A wall
	// that does not exist has no NetNS and a Fault. A wall that is made or
	// deleted during the call is seen as it was before or after. The counts of
	// many walls may be half a minute old; those of a single wall are exact. An
	// error means that nothing could be found out.
	InspectWalls(ctx context.Context, specs []WallSpec) ([]Wall, error)
	// WatchWalls calls changed soon after any wall's filter or link or a bundle's
	// bridge changed, including changes by this agent, and whenever it may have
	// missed a change. changed must return soon. WatchWalls does not report
	// changes inside a namespace or to a machine. It returns when ctx ends, with
	// its error, or when it can no longer watch.
	WatchWalls(ctx context.Context, changed func()) error
	// DeleteWall removes the filter, the link and the namespace. It returns nil
	// when the wall is absent or belongs to someone else. Processes that still
	// run in the namespace are left without a link.
	DeleteWall(ctx context.Context, owner Owner) error
	// ListWalls returns all walls that have our marks, of any cluster, in a fixed
	// order. The remains of a wall count as a wall.
	ListWalls(ctx context.Context) ([]WallOwner, error)
	// Drops returns the destinations of dropped packets since ForgetDrops, in a
	// fixed order. Their number is bounded: a flood of destinations hides later
	// ones for some minutes, and a destination that is not tried again for as
	// long is forgotten. ErrNotFound when there is no filter.
	Drops(ctx context.Context, owner Owner) ([]Drop, error)
	// ForgetDrops empties the list that Drops returns, and makes sure that the
	// same attempts are seen again. The counts of a Wall continue.
	ForgetDrops(ctx context.Context, owner Owner) error
}
