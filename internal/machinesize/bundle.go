// SPDX-License-Identifier: Apache-2.0

package machinesize

import (
	"k8s.io/apimachinery/pkg/api/resource"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// Bundle is what a bundle's container may use of the node.
type Bundle struct {
	CPUMillis   int64
	MemoryBytes int64
}

// DefaultBundle is the size of bundles for which the manager recorded none, and
// the manager's default. With its maximum of 512 connections in use, the built-in bundle
// needed about 85 MiB in a measurement: 57 MiB of its own, and for the rest pages of its
// program, which the kernel can drop.
var DefaultBundle = Bundle{CPUMillis: 250, MemoryBytes: 128 << 20}

// BundleOf returns the size of the bundle that the manager recorded. r may be
// nil.
func BundleOf(r *v1alpha1.ResourcesStatus) Bundle {
	if r == nil || r.Bundle == nil {
		return DefaultBundle
	}
	return Bundle{CPUMillis: r.Bundle.CPU.MilliValue(), MemoryBytes: r.Bundle.Memory.Value()}
}

// Status returns the size as the manager records it.
func (b Bundle) Status() *v1alpha1.BundleResources {
	return &v1alpha1.BundleResources{
		CPU:    *resource.NewMilliQuantity(b.CPUMillis, resource.DecimalSI),
		Memory: *resource.NewQuantity(b.MemoryBytes, resource.BinarySI),
	}
}

// Within returns the size with disks that fit into the booked space. They do not
// if the spec asked for more after the Bottle was placed. The data disk has
// priority, but each disk that the spec asks for has at least 1 GiB: smolvm takes 0
// as its default, which is larger than that. r may be nil, and has no disk if an
// earlier manager placed the Bottle: then the size is not changed.
func (s Size) Within(r *v1alpha1.ResourcesStatus) Size {
	if r == nil || r.Disk == nil {
		return s
	}
	fit := func(requested, room int64) int64 { return min(requested, max(1, room)) }
	booked := r.Disk.Value() >> 30
	s.StorageGiB = fit(s.StorageGiB, booked-min(s.OverlayGiB, 1))
	s.OverlayGiB = fit(s.OverlayGiB, booked-s.StorageGiB)
	return s
}

// Disk returns how many bytes of disk spec.machine requests, or 0 if it requests
// none. m may be nil.
func Disk(m *v1alpha1.Machine) int64 {
	s := Of(m)
	return (s.StorageGiB + s.OverlayGiB) << 30
}
