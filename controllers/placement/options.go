// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"botbottle.dev/bottle-operator/internal/placeholder"
)

// Guard keeps the operator from being removed while Bottles exist.
type Guard interface {
	// Hold returns nil once the operator cannot be removed.
	Hold(ctx context.Context) error
}

// Options configure placement.
type Options struct {
	// Options say what placeholders are like.
	placeholder.Options
	// Namespace is the namespace of the agents' Leases.
	Namespace string
	// AllowedBundleImages are globs (path.Match) of the images that spec.bundle.image may
	// name. No placeholder runs another one.
	AllowedBundleImages []string
	// LeaseDuration is the duration of an agent's Lease that does not set one.
	LeaseDuration time.Duration
	// RefusalRetry is how long to wait before trying again to create a
	// placeholder that the API server refused.
	RefusalRetry time.Duration
	// FirstReport is how long the first report on a Bottle waits for kube-scheduler.
	FirstReport time.Duration
	// FirstPause and LongestPause are the pauses before a placeholder is created in the
	// place of one that ended. The first one is replaced at once, the next after
	// FirstPause, and each further one after twice as long, up to LongestPause.
	FirstPause, LongestPause time.Duration
	// Guard is asked before a placeholder is created; nil means that nothing is asked.
	Guard Guard
	// Clock measures when Leases expire; nil means the wall clock.
	Clock clock.PassiveClock
	// Registerer registers the metrics; nil means controller-runtime's registry.
	Registerer prometheus.Registerer
}

// DefaultOptions returns the default values of the manager's flags. The namespace and
// the bundle's image have none and stay empty.
func DefaultOptions() Options {
	return Options{
		Options:       placeholder.DefaultOptions(),
		LeaseDuration: 40 * time.Second,
		RefusalRetry:  30 * time.Second,
		FirstReport:   2 * time.Second,
		FirstPause:    10 * time.Second,
		LongestPause:  5 * time.Minute,
	}
}

// Bounds of the limits of bundles. The built-in bundle needs about 32 MiB while it
// does nothing.
const (
	MinBundleCPUMillis = 10
	MinBundleMemory    = 48 << 20
)

// validate fills in defaults and returns an error for invalid options.
func (o *Options) validate() error {
	defaults := DefaultOptions()
	if o.Namespace == "" {
		return errors.New("the namespace of the agents' Leases is not set")
	}
	if o.BundleImage == "" {
		return errors.New("the image of the built-in bundle is not set")
	}
	if o.DefaultCPUs < 1 || o.DefaultCPUs > 16 {
		return errors.New("the default number of CPUs must be 1 to 16")
	}
	if o.DefaultMemory.Cmp(resource.MustParse("64Mi")) < 0 {
		return errors.New("the default memory must be at least 64Mi")
	}
	if o.OverheadCPU.Sign() < 0 || o.OverheadMemory.Sign() < 0 {
		return errors.New("overheads cannot be negative")
	}
	if o.DefaultDisk.Sign() < 0 {
		return errors.New("the default disk space cannot be negative")
	}
	if o.BundleCPU.MilliValue() < MinBundleCPUMillis {
		return fmt.Errorf("the CPU limit of bundles must be at least %dm", MinBundleCPUMillis)
	}
	if o.BundleMemory.Value() < MinBundleMemory {
		return fmt.Errorf("the memory limit of bundles must be at least %dMi", MinBundleMemory>>20)
	}
	if o.LeaseDuration <= 0 {
		o.LeaseDuration = defaults.LeaseDuration
	}
	if o.RefusalRetry <= 0 {
		o.RefusalRetry = defaults.RefusalRetry
	}
	if o.FirstReport <= 0 {
		o.FirstReport = defaults.FirstReport
	}
	if o.FirstPause <= 0 {
		o.FirstPause = defaults.FirstPause
	}
	if o.LongestPause <= 0 {
		o.LongestPause = defaults.LongestPause
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Registerer == nil {
		o.Registerer = metrics.Registry
	}
	return nil
}
