// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"net"
	"net/netip"
	"time"

	"botbottle.dev/bottle-operator/internal/machinesize"
)

// BundleSpec describes the bundle container of a Bottle.
type BundleSpec struct {
	Owner Owner
	// Image is empty for the built-in bundle, which is hardened: it has a
	// read-only root, runs as non-root and has no capabilities. Any other image
	// runs with a writable layer and docker's default capabilities without
	// NET_RAW.
	Image string
	IP    netip.Addr
	// Env entries are K=V. They never appear in an error.
	Env []string
	// RulesDir is the folder on the node that holds the egress rules file. It is
	// mounted read-only into the built-in bundle. Empty for any other image.
	RulesDir string
	// SecretsDir is the Bottle's folder in the Vault. It is mounted read-only into the
	// built-in bundle. Empty for any other image.
	SecretsDir string
	// Limits are what the container may use of the node. Zero means
	// machinesize.DefaultBundle. The container may also have at most BundlePids
	// processes and threads.
	Limits machinesize.Bundle
}

// BundlePids is how many processes and threads a bundle's container may have.
const BundlePids = 512

// BundleMAC returns the MAC address of the bundle at an IPv4 address: 02:42
// followed by the address's four bytes. Older releases of Docker Engine derive
// it in the same way. It lets the wall identify the bundle without asking
// docker. BundleMAC returns nil for any other address.
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
	Image       string // the reference that it was created from
	IP          netip.Addr
	Running     bool
	// State is docker's own name for the state, such as "exited", with the exit
	// code.
	State string
	// OutOfMemory is whether it ended because it exceeded its memory limit.
	// ListBundles does not set it.
	OutOfMemory bool
	// StartedAt is when it was last started, by the node's clock; zero if it
	// was never started. ListBundles does not set it.
	StartedAt time.Time
}

// Bundles manages the bundle containers of this node's Bottles. All methods may
// be called again at any time. ErrUnavailable means that dockerd or the container runtime
// does not answer.
//
// In Pods, the kubelet makes, starts and removes the containers: EnsureBundle only
// observes, StopBundle does nothing, and DeleteBundle ends a container, which stays until
// the Pod has gone. ErrNotFound also means that the Pod does not run.
type Bundles interface {
	// InspectBundle returns the owner's container. It returns ErrNotFound when
	// there is none, and ErrConflict when a container with its name belongs to
	// someone else.
	InspectBundle(ctx context.Context, owner Owner) (Bundle, error)
	// EnsureBundle makes the container exist and run, with the MAC address
	// BundleMAC(spec.IP). If our container differs from spec, it is replaced; if only the
	// limits differ, they are changed in place. A stopped container is started, after a
	// delay if it failed or exceeded its memory limit. EnsureBundle returns ErrConflict
	// when a container with its name belongs to someone else, ErrNotFound when the node
	// lacks the image, ErrInvalid when docker refuses the container, and ErrStuck when
	// docker neither removes our container nor lets it be replaced. While no container
	// runs, EnsureBundle also replaces a network that EnsureNetwork would not make like
	// that any more.
	EnsureBundle(ctx context.Context, spec BundleSpec) (Bundle, error)
	// StopBundle stops the owner's container. It returns nil when the container
	// is absent or stopped already.
	StopBundle(ctx context.Context, owner Owner) error
	// DeleteBundle removes the owner's container, running or not. It returns nil
	// when the container is absent or belongs to someone else, and ErrStuck when docker
	// does not remove it.
	DeleteBundle(ctx context.Context, owner Owner) error
	// ListBundles returns the containers that have our labels, of any cluster
	// and node.
	ListBundles(ctx context.Context) ([]Bundle, error)
	// UnansweredPorts dials ip, the address of the owner's bundle, on each port from where
	// the bundle's bridge is, and returns the ports that do not answer, in order. It
	// waits only briefly.
	UnansweredPorts(ctx context.Context, owner Owner, ip netip.Addr, ports []int32) ([]int32, error)
	// WatchBundles calls changed with the owner's UID whenever a container or
	// network with our labels changes. When the stream was lost, everything may have
	// changed, and it calls changed with "", at the latest when there is a stream again.
	// It returns when ctx ends.
	WatchBundles(ctx context.Context, changed func(uid string)) error
	// FollowDecisions calls decided for each decision in the log of the owner's
	// container: first for those that docker received at since or later, of
	// which docker keeps a bounded number, and then for each new one as it
	// comes. It skips lines that are not decisions. It returns nil when ctx ends
	// or the container is not running (any more). It returns ErrNotFound and
	// ErrConflict as InspectBundle does, and ErrUnavailable also when the log was
	// lost; the caller may then follow it again from the time of the last
	// decision. A slow decided delays nothing but this call.
	FollowDecisions(ctx context.Context, owner Owner, since time.Time, decided func(Decision)) error
	// ReadLog calls line for each line of the log of the owner's container, running or
	// not, in the order in which docker keeps them. A line longer than 16 KiB comes in
	// parts. ReadLog returns line's error, nil at the end of the log, and nil when ctx
	// ends. Other errors are as in FollowDecisions.
	ReadLog(ctx context.Context, owner Owner, req BundleLogRequest, line func(BundleLogLine) error) error
	// ReadFile returns the regular file at an absolute path in the owner's
	// container, running or not. Links are followed as the container would
	// follow them, and never lead out of it. ReadFile returns ErrNotFound when
	// there is no such file or container, ErrConflict as InspectBundle does, and
	// ErrInvalid when the path is not clean and absolute, or when the file is
	// not regular or has more than limit bytes.
	ReadFile(ctx context.Context, owner Owner, path string, limit int64) ([]byte, error)
	// Folders returns the folders on the node in which the agent writes the rules and
	// the secrets of the owner's built-in bundle. The bundle sees what is written there
	// without a restart. They stay the same until the Bottle's network is replaced, and
	// exist. Folders returns ErrNotFound while there is no place for them yet, and
	// ErrInvalid when a folder cannot be trusted with secrets.
	Folders(ctx context.Context, owner Owner) (rules, secrets string, err error)
}
