// SPDX-License-Identifier: Apache-2.0

// Package machinesize holds the size of a machine: the fields of spec.machine in
// smolvm's units, with smolvm's limits on them and the names under which the
// operator stores and passes them on. It also holds the size of a bundle. It is
// pure. It does not choose defaults:
// the manager chooses CPUs and memory, and smolvm the size of the disks.
package machinesize

import (
	"fmt"
	"math"
	"strconv"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// Size is spec.machine in smolvm's units. Zero means that the field is not
// requested. The JSON keys are those of the agent's record of a machine, and must
// not change; a field that is new to a record is zero in it. The TOML keys are
// those of a Smolfile. Types that contain a Size embed it and do not list its
// fields.
type Size struct {
	CPUs       int32 `json:"cpus,omitempty" toml:"cpus,omitempty"`
	MemoryMiB  int64 `json:"memoryMiB,omitempty" toml:"memory,omitempty"`
	StorageGiB int64 `json:"storageGiB,omitempty" toml:"storage,omitempty"`
	OverlayGiB int64 `json:"overlayGiB,omitempty" toml:"overlay,omitempty"`
}

// Of returns the size that spec.machine requests. m may be nil.
func Of(m *v1alpha1.Machine) Size {
	if m == nil {
		return Size{}
	}
	return Size{
		CPUs:       ptr.Deref(m.CPUs, 0),
		MemoryMiB:  MiB(bytesOf(m.Memory)),
		StorageGiB: GiB(bytesOf(m.Storage)),
		OverlayGiB: GiB(bytesOf(m.Overlay)),
	}
}

// field is a field of a Size as smolvm sees it.
type field struct {
	// name is the key in a Smolfile, and flag the flag of smolvm machine create.
	name, flag string
	value      int64
	unit       string // for messages: "" or with a leading space
	min, max   int64
	want       string // min and max in words
}

// fields returns all fields in the order in which Flags and Check use them.
func (s Size) fields() []field {
	return []field{
		{"cpus", "--cpus", int64(s.CPUs), "", 1, 16, "1 to 16"},
		{"memory", "--mem", s.MemoryMiB, " MiB", 64, math.MaxUint32, "at least 64"},
		{"storage", "--storage", s.StorageGiB, " GiB", 1, math.MaxInt64, "at least 1"},
		{"overlay", "--overlay", s.OverlayGiB, " GiB", 1, math.MaxInt64, "at least 1"},
	}
}

// Check returns an error if smolvm does not accept a requested size.
func (s Size) Check() error {
	for _, f := range s.fields() {
		if f.value != 0 && (f.value < f.min || f.value > f.max) {
			return fmt.Errorf("%s %d%s: want %s", f.name, f.value, f.unit, f.want)
		}
	}
	return nil
}

// Flags returns the requested sizes as flags of smolvm machine create, in the
// form --flag=value. Every release since 0.8.0 knows all of them.
func (s Size) Flags() []string {
	var flags []string
	for _, f := range s.fields() {
		if f.value > 0 {
			flags = append(flags, f.flag+"="+strconv.FormatInt(f.value, 10))
		}
	}
	return flags
}

// Fits reports whether a machine of this size needs no more than was booked.
func (s Size) Fits(r *v1alpha1.ResourcesStatus) bool {
	return s.CPUs <= r.CPUs && s.MemoryMiB <= MiB(r.Memory.Value()) && s.Within(r) == s
}

// MiB converts bytes to smolvm's unit for memory, rounding up.
func MiB(bytes int64) int64 { return ceil(bytes, 1<<20) }

// GiB converts bytes to smolvm's unit for disks, rounding up.
func GiB(bytes int64) int64 { return ceil(bytes, 1<<30) }

func ceil(n, unit int64) int64 {
	q := n / unit
	if n%unit > 0 {
		q++
	}
	return q
}

func bytesOf(q *resource.Quantity) int64 {
	if q == nil {
		return 0
	}
	return q.Value()
}
