// SPDX-License-Identifier: Apache-2.0

package machine

// Defaults of `machine create`.
const (
	DefaultCPUs      = 4
	DefaultMemoryMiB = 8192
)

// Disks are the sizes of a machine's disks in GiB, nil for the default. The
// JSON keys are those of the database and of `ls`, the TOML keys those of a
// Smolfile.
type Disks struct {
	StorageGiB *uint64 `json:"storage_gb" toml:"storage"`
	OverlayGiB *uint64 `json:"overlay_gb" toml:"overlay"`
}

// Disk is one of the disks.
type Disk struct {
	Name    string // its flag and its key in a Smolfile
	Default uint64 // in GiB
	// Size is the disk's place in a Disks.
	Size func(*Disks) **uint64
}

// AllDisks are the disks in the order in which smolvm finds faults in them.
var AllDisks = []Disk{
	{"storage", 20, func(d *Disks) **uint64 { return &d.StorageGiB }},
	{"overlay", 10, func(d *Disks) **uint64 { return &d.OverlayGiB }},
}

// GiB is the size that the disk gets.
func (d Disk) GiB(of *Disks) uint64 {
	if n := *d.Size(of); n != nil {
		return *n
	}
	return d.Default
}
