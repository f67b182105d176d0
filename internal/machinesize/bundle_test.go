// SPDX-License-Identifier: Apache-2.0

package machinesize_test

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/machinesize"
)

func TestBundleOf(t *testing.T) {
	for _, r := range []*v1alpha1.ResourcesStatus{nil, {}} {
		if got := machinesize.BundleOf(r); got != machinesize.DefaultBundle {
			t.Errorf("%+v: got %+v, want the defaults", r, got)
		}
	}
	want := machinesize.Bundle{CPUMillis: 1500, MemoryBytes: 200 << 20}
	if got := machinesize.BundleOf(&v1alpha1.ResourcesStatus{Bundle: want.Status()}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestWithin checks that a spec that changed after the Bottle was placed gets no
// more disk than was booked.
func TestWithin(t *testing.T) {
	for _, tt := range []struct {
		storage, overlay         int64
		booked                   string
		wantStorage, wantOverlay int64
	}{
		{20, 10, "30Gi", 20, 10},
		{65536, 10, "30Gi", 29, 1}, // 0 would be smolvm's default of 10 GiB
		{65536, 0, "30Gi", 30, 0},
		{29, 1, "30Gi", 29, 1},
		{65536, 0, "512Mi", 1, 0},
		{20, 65536, "30Gi", 20, 10},
		{65536, 65536, "1Gi", 1, 1},
		{0, 65536, "1Gi", 0, 1},
		{0, 0, "1Gi", 0, 0},
		{5, 5, "", 5, 5},
	} {
		r := &v1alpha1.ResourcesStatus{}
		if tt.booked != "" {
			q := resource.MustParse(tt.booked)
			r.Disk = &q
		}
		got := machinesize.Size{CPUs: 3, StorageGiB: tt.storage, OverlayGiB: tt.overlay}.Within(r)
		if want := (machinesize.Size{CPUs: 3, StorageGiB: tt.wantStorage, OverlayGiB: tt.wantOverlay}); got != want {
			t.Errorf("%d and %d GiB with %q booked: got %+v, want %+v", tt.storage, tt.overlay, tt.booked, got, want)
		}
	}
	if got := (machinesize.Size{StorageGiB: 5}).Within(nil); got.StorageGiB != 5 {
		t.Errorf("without a record: got %+v, want 5 GiB", got)
	}
}

func TestFits(t *testing.T) {
	disk := resource.MustParse("30Gi")
	r := &v1alpha1.ResourcesStatus{CPUs: 2, Memory: resource.MustParse("2Gi"), Disk: &disk}
	for size, want := range map[machinesize.Size]bool{
		{}: true,
		{CPUs: 2, MemoryMiB: 2048, StorageGiB: 20, OverlayGiB: 10}: true,
		{CPUs: 3, MemoryMiB: 2048}:                                 false,
		{CPUs: 2, MemoryMiB: 2049}:                                 false,
		{StorageGiB: 31}:                                           false,
		{StorageGiB: 20, OverlayGiB: 11}:                           false,
	} {
		if got := size.Fits(r); got != want {
			t.Errorf("%+v: got %t, want %t", size, got, want)
		}
	}
}
