// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"context"
	"net/netip"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// logBytes is how much of a container's log is read per second on average.
const logBytes = 64 << 10

// Bundles implements host.Bundles with the container of each Bottle's Pod.
type Bundles struct{ r *Runtime }

// InspectBundle implements host.Bundles.
func (b *Bundles) InspectBundle(ctx context.Context, owner host.Owner) (host.Bundle, error) {
	return host.Bundle{}, host.ErrUnsupported
}

// EnsureBundle implements host.Bundles.
func (b *Bundles) EnsureBundle(ctx context.Context, spec host.BundleSpec) (host.Bundle, error) {
	return host.Bundle{}, host.ErrUnsupported
}

// StopBundle implements host.Bundles.
func (b *Bundles) StopBundle(ctx context.Context, owner host.Owner) error { return host.ErrUnsupported }

// DeleteBundle implements host.Bundles.
func (b *Bundles) DeleteBundle(ctx context.Context, owner host.Owner) error {
	return host.ErrUnsupported
}

// ListBundles implements host.Bundles.
func (b *Bundles) ListBundles(ctx context.Context) ([]host.Bundle, error) {
	return nil, host.ErrUnsupported
}

// UnansweredPorts implements host.Bundles.
func (b *Bundles) UnansweredPorts(ctx context.Context, owner host.Owner, ip netip.Addr, ports []int32) ([]int32, error) {
	return nil, host.ErrUnsupported
}

// WatchBundles implements host.Bundles.
func (b *Bundles) WatchBundles(ctx context.Context, changed func(uid string)) error {
	return host.ErrUnsupported
}

// FollowDecisions implements host.Bundles.
func (b *Bundles) FollowDecisions(ctx context.Context, owner host.Owner, since time.Time, decided func(host.Decision)) error {
	return host.ErrUnsupported
}

// ReadLog implements host.Bundles.
func (b *Bundles) ReadLog(ctx context.Context, owner host.Owner, req host.BundleLogRequest, line func(host.BundleLogLine) error) error {
	return host.ErrUnsupported
}

// ReadFile implements host.Bundles.
func (b *Bundles) ReadFile(ctx context.Context, owner host.Owner, path string, limit int64) ([]byte, error) {
	return nil, host.ErrUnsupported
}

// Folders implements host.Bundles.
func (b *Bundles) Folders(ctx context.Context, owner host.Owner) (rules, secrets string, err error) {
	return "", "", host.ErrUnsupported
}
