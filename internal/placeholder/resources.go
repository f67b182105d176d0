// SPDX-License-Identifier: Apache-2.0

package placeholder

import (
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/machinesize"
)

// Options are what a placeholder depends on beside its Bottle.
type Options struct {
	// DefaultCPUs is the number of virtual CPUs, 1 to 16, of a Bottle whose spec
	// does not set it.
	DefaultCPUs int32
	// DefaultMemory is the memory of a Bottle whose spec does not set it.
	DefaultMemory resource.Quantity
	// DefaultDisk is the disk space that is booked for a Bottle whose spec sets
	// no size of a disk; none if it is zero.
	DefaultDisk resource.Quantity
	// OverheadCPU and OverheadMemory are booked for each Bottle on top of its
	// machine's size and its bundle's limits, for its VMM and network backend.
	OverheadCPU    resource.Quantity
	OverheadMemory resource.Quantity
	// BundleCPU and BundleMemory are the limits of each Bottle's bundle. They are
	// booked, too.
	BundleCPU    resource.Quantity
	BundleMemory resource.Quantity
	// BundleImage is the image of the built-in bundle, which is the container of the
	// placeholder: the operator's own image. It must name a numeric user other than root.
	BundleImage string
}

// DefaultOptions returns the default values of the manager's flags. The bundle's image
// has none and stays empty. The overhead of a machine was measured to be 30 to 130 MiB,
// including the page cache of its disks, which the kernel can drop.
func DefaultOptions() Options {
	bundle := machinesize.DefaultBundle.Status()
	return Options{
		DefaultCPUs:    4,
		DefaultMemory:  resource.MustParse("8Gi"),
		DefaultDisk:    resource.MustParse("1Gi"),
		OverheadCPU:    resource.MustParse("100m"),
		OverheadMemory: resource.MustParse("128Mi"),
		BundleCPU:      bundle.CPU,
		BundleMemory:   bundle.Memory,
	}
}

// mebibyte is the unit in which memory is booked, because smolvm accepts no
// other.
const mebibyte = 1 << 20

// Resources returns what is booked for the machine, its disks and its bundle:
// what the spec sets, and the defaults for the rest.
func Resources(b *v1alpha1.Bottle, o Options) v1alpha1.ResourcesStatus {
	r := v1alpha1.ResourcesStatus{CPUs: o.DefaultCPUs, Memory: o.DefaultMemory}
	if m := b.Spec.Machine; m != nil {
		r.CPUs = ptr.Deref(m.CPUs, r.CPUs)
		r.Memory = ptr.Deref(m.Memory, r.Memory)
	}
	mib := (r.Memory.Value() + mebibyte - 1) / mebibyte
	r.Memory = *resource.NewQuantity(mib*mebibyte, resource.BinarySI)
	r.Bundle = &v1alpha1.BundleResources{CPU: o.BundleCPU.DeepCopy(), Memory: o.BundleMemory.DeepCopy()}
	r.Overhead = &v1alpha1.OverheadResources{CPU: ptr.To(o.OverheadCPU.DeepCopy()), Memory: ptr.To(o.OverheadMemory.DeepCopy())}
	disk := o.DefaultDisk.Value()
	if n := machinesize.Disk(b.Spec.Machine); n > 0 {
		disk = n
	}
	if disk > 0 {
		r.Disk = resource.NewQuantity(disk, resource.BinarySI)
	}
	return r
}
