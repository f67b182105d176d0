// SPDX-License-Identifier: Apache-2.0

package machinesize_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"
	"k8s.io/apimachinery/pkg/api/resource"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/machinesize"
)

// A size that sets every field, in each of its forms.
var (
	full = machinesize.Size{CPUs: 2, MemoryMiB: 65, StorageGiB: 30, OverlayGiB: 3}

	fullMachine = &v1alpha1.Machine{
		CPUs:    new(int32(2)),
		Memory:  new(resource.MustParse("66000Ki")),
		Storage: new(resource.MustParse("30Gi")),
		Overlay: new(resource.MustParse("3G")),
	}
	fullRecord = `{"cpus":2,"memoryMiB":65,"storageGiB":30,"overlayGiB":3}`
	fullKeys   = "cpus = 2\nmemory = 65\nstorage = 30\noverlay = 3\n"
	fullFlags  = []string{"--cpus=2", "--mem=65", "--storage=30", "--overlay=3"}
)

func TestForms(t *testing.T) {
	tests := map[string]struct {
		machine      *v1alpha1.Machine
		size         machinesize.Size
		record, keys string
		flags        []string
	}{
		"every field": {fullMachine, full, fullRecord, fullKeys, fullFlags},
		"no machine":  {nil, machinesize.Size{}, "{}", "", nil},
		"no field":    {&v1alpha1.Machine{}, machinesize.Size{}, "{}", "", nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := machinesize.Of(tt.machine); got != tt.size {
				t.Errorf("size: got %+v, want %+v", got, tt.size)
			}
			if got, err := json.Marshal(tt.size); err != nil || string(got) != tt.record {
				t.Errorf("in a record: got %s, %v, want %s", got, err, tt.record)
			}
			if got, err := toml.Marshal(tt.size); err != nil || string(got) != tt.keys {
				t.Errorf("in a Smolfile: got %q, %v, want %q", got, err, tt.keys)
			}
			if d := cmp.Diff(tt.flags, tt.size.Flags()); d != "" {
				t.Errorf("flags (-want +got):\n%s", d)
			}
			if err := tt.size.Check(); err != nil {
				t.Errorf("check: got %v, want nil", err)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	tests := map[string]struct {
		size machinesize.Size
		want string
	}{
		"17 cpus":               {machinesize.Size{CPUs: 17}, "cpus 17: want 1 to 16"},
		"negative cpus":         {machinesize.Size{CPUs: -1}, "cpus -1: want 1 to 16"},
		"63 MiB":                {machinesize.Size{MemoryMiB: 63}, "memory 63 MiB: want at least 64"},
		"memory beyond 32 bits": {machinesize.Size{MemoryMiB: math.MaxUint32 + 1}, "memory 4294967296 MiB"},
		"negative storage":      {machinesize.Size{StorageGiB: -1}, "storage -1 GiB: want at least 1"},
		"negative overlay":      {machinesize.Size{OverlayGiB: -1}, "overlay -1 GiB: want at least 1"},
	}
	for name, tt := range tests {
		if err := tt.size.Check(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error that contains %q", name, err, tt.want)
		}
	}
	for name, size := range map[string]machinesize.Size{
		"smallest": {CPUs: 1, MemoryMiB: 64, StorageGiB: 1, OverlayGiB: 1},
		"largest":  {CPUs: 16, MemoryMiB: math.MaxUint32, StorageGiB: math.MaxInt64, OverlayGiB: math.MaxInt64},
	} {
		if err := size.Check(); err != nil {
			t.Errorf("%s: got %v, want nil", name, err)
		}
	}
}

func TestUnits(t *testing.T) {
	for bytes, want := range map[int64]int64{0: 0, 1: 1, 1 << 20: 1, 1<<20 + 1: 2, 2 << 30: 2048, 64e6: 62, math.MaxInt64: 1 << 43} {
		if got := machinesize.MiB(bytes); got != want {
			t.Errorf("MiB of %d: got %d, want %d", bytes, got, want)
		}
	}
	for bytes, want := range map[int64]int64{0: 0, 1: 1, 1 << 30: 1, 1<<30 + 1: 2, 20 << 30: 20, math.MaxInt64: 1 << 33} {
		if got := machinesize.GiB(bytes); got != want {
			t.Errorf("GiB of %d: got %d, want %d", bytes, got, want)
		}
	}
}

// FuzzUnits checks that rounding up never loses a byte and never adds a whole
// unit.
func FuzzUnits(f *testing.F) {
	f.Add(int64(0))
	f.Add(int64(1 << 20))
	f.Add(int64(1<<30 + 1))
	f.Add(int64(1<<63 - 1))
	f.Fuzz(func(t *testing.T, bytes int64) {
		if bytes < 0 {
			return // not a size
		}
		if got := uint64(machinesize.MiB(bytes)) << 20; got < uint64(bytes) || got-uint64(bytes) >= 1<<20 {
			t.Fatalf("%d bytes: got %d, want less than one MiB more", bytes, got)
		}
		if got := uint64(machinesize.GiB(bytes)) << 30; got < uint64(bytes) || got-uint64(bytes) >= 1<<30 {
			t.Fatalf("%d bytes: got %d, want less than one GiB more", bytes, got)
		}
	})
}
