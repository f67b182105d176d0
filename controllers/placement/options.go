// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// Options are what placement is told by the command line.
type Options struct {
	// Namespace in which the agents' Leases are.
	Namespace string
	// DefaultCPUs is the number of virtual CPUs, 1 to 16, of a Bottle whose
	// spec does not say.
	DefaultCPUs int32
	// DefaultMemory is the memory of a Bottle whose spec does not say.
	DefaultMemory resource.Quantity
	// OverheadCPU and OverheadMemory are booked for each Bottle on top of its
	// machine's size: its VMM, network backend and bundle.
	OverheadCPU    resource.Quantity
	OverheadMemory resource.Quantity
	// PlaceholderImage is the image of the placeholder's container, which has
	// nothing to do but wait.
	PlaceholderImage string
	// LeaseDuration after which an agent's Lease expires that does not say.
	LeaseDuration time.Duration
	// RefusalRetry is how long to wait before a placeholder that the API
	// server refused is tried again.
	RefusalRetry time.Duration
	// Clock by which Leases expire; nil is the wall clock.
	Clock clock.PassiveClock
	// Registerer of the metrics; nil is the one that controllers serve from.
	Registerer prometheus.Registerer
}

// DefaultOptions are those of a manager whose command line says nothing.
func DefaultOptions() Options {
	return Options{
		Namespace:        "bottle-system",
		DefaultCPUs:      4,
		DefaultMemory:    resource.MustParse("8Gi"),
		OverheadCPU:      resource.MustParse("100m"),
		OverheadMemory:   resource.MustParse("128Mi"),
		PlaceholderImage: "registry.k8s.io/pause:3.10",
		LeaseDuration:    40 * time.Second,
		RefusalRetry:     30 * time.Second,
	}
}

// validate fills in what may be left out and refuses what cannot work.
func (o *Options) validate() error {
	defaults := DefaultOptions()
	if o.Namespace == "" {
		return errors.New("no namespace for the agents' Leases")
	}
	if o.PlaceholderImage == "" {
		return errors.New("no image for placeholder Pods")
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
	if o.LeaseDuration <= 0 {
		o.LeaseDuration = defaults.LeaseDuration
	}
	if o.RefusalRetry <= 0 {
		o.RefusalRetry = defaults.RefusalRetry
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Registerer == nil {
		o.Registerer = metrics.Registry
	}
	return nil
}
