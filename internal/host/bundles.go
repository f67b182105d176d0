// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// BundleSpec is the bundle container that a Bottle asks for.
type BundleSpec struct {
	Owner Owner
	// Image is empty for the built-in bundle, which is hardened: read-only
	// root, non-root, no capabilities. Any other runs with a writable layer
	// and docker's default capabilities without NET_RAW.
	Image string
	IP    netip.Addr
	// Env entries are K=V. They never appear in an error.
	Env []string
	// RulesDir is the folder on the node with the egress rules file, mounted
	// read-only into the built-in bundle. Empty for any other image.
	RulesDir string
}

// BundleMAC returns the MAC address of the bundle at an IPv4 address: 02:42 and
// the address's four bytes, as older releases of Docker Engine derive it. The wall
// knows the bundle by it without asking anybody. It is nil for any other address.
func BundleMAC(ip netip.Addr) net.HardwareAddr {
	if !ip.Is4() {
		return nil
	}
	return append(net.HardwareAddr{0x02, 0x42}, ip.AsSlice()...)
}

// Bundle is a bundle container as observed.
type Bundle struct {
	Owner       Owner
	ContainerID string
	Image       string // reference that it was created from
	IP          netip.Addr
	Running     bool
	// State is docker's own word, such as "exited", with the exit code.
	State string
	// StartedAt is when it was last started, by the node's clock; zero if it
	// never was. ListBundles leaves it out.
	StartedAt time.Time
}

// Bundles are the bundle containers of this node's Bottles. All methods may be
// called again at any time; ErrUnavailable means that dockerd does not answer.
type Bundles interface {
	// InspectBundle returns the owner's container: ErrNotFound when there is
	// none, ErrConflict when a container of its name is someone else's.
	InspectBundle(ctx context.Context, owner Owner) (Bundle, error)
	// EnsureBundle makes the container exist and run, with the MAC address
	// BundleMAC(spec.IP). An unequal one of ours is replaced, a stopped one is
	// started. ErrConflict when a container of
	// its name is someone else's, ErrNotFound when the node lacks the image,
	// ErrInvalid when docker refuses the container.
	EnsureBundle(ctx context.Context, spec BundleSpec) (Bundle, error)
	// StopBundle stops the owner's container; absent or stopped is nil.
	StopBundle(ctx context.Context, owner Owner) error
	// DeleteBundle removes the owner's container, running or not; absent or
	// someone else's is nil.
	DeleteBundle(ctx context.Context, owner Owner) error
	// ListBundles returns the containers that bear our labels, of any cluster
	// and node.
	ListBundles(ctx context.Context) ([]Bundle, error)
	// UnansweredPorts dials ip on each port from the node and returns those
	// that do not answer, in order. It waits briefly at most.
	UnansweredPorts(ctx context.Context, ip netip.Addr, ports []int32) ([]int32, error)
	// WatchBundles calls changed with the owner's UID whenever a container or
	// network that bears our labels changes, and with "" when the stream was
	// lost and everything may have changed. It returns when ctx ends.
	WatchBundles(ctx context.Context, changed func(uid string)) error
	// FollowDecisions calls decided for each decision in the log of the owner's
	// container that docker got at since or later, of which docker keeps a
	// bounded number, and then for each as it comes. Lines that are no
	// decisions are passed over. It returns nil when ctx ends or the container
	// is not running (any more). ErrNotFound and ErrConflict as InspectBundle;
	// ErrUnavailable also when the log was lost on the way, after which it may
	// be followed again from the last decision's time on. A decided that takes
	// its time holds up nothing but this call.
	FollowDecisions(ctx context.Context, owner Owner, since time.Time, decided func(Decision)) error
	// ReadFile returns the regular file at an absolute path in the owner's
	// container, running or not. Links are followed as the container would,
	// never out of it. ErrNotFound when there is no such file or container,
	// ErrConflict as InspectBundle, ErrInvalid when the path is not clean and
	// absolute, leads to anything but a regular file, or to more than limit
	// bytes.
	ReadFile(ctx context.Context, owner Owner, path string, limit int64) ([]byte, error)
}
