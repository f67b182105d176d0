// SPDX-License-Identifier: Apache-2.0

package placeholder

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
)

// disks returns a Bottle with disks of these sizes; "" means not set.
func disks(storage, overlay string) *builders.Bottle {
	b := builders.MakeBottle("a")
	b.Spec.Machine = &v1alpha1.Machine{}
	for into, text := range map[**resource.Quantity]string{&b.Spec.Machine.Storage: storage, &b.Spec.Machine.Overlay: overlay} {
		if text != "" {
			*into = ptr.To(resource.MustParse(text))
		}
	}
	return b
}

func TestResources(t *testing.T) {
	tests := map[string]struct {
		bottle *builders.Bottle
		cpus   int32
		memory string
		disk   string
	}{
		"defaults":             {builders.MakeBottle("a"), 4, "8Gi", ""},
		"only cpus":            {builders.MakeBottle("a").CPUs(1), 1, "8Gi", ""},
		"only memory":          {builders.MakeBottle("a").Memory("64Mi"), 4, "64Mi", ""},
		"rounded up":           {builders.MakeBottle("a").Memory("64Mi").Memory("67108865"), 4, "65Mi", ""},
		"decimal unit":         {builders.MakeBottle("a").Memory("100M"), 4, "96Mi", ""},
		"a fraction of a byte": {builders.MakeBottle("a").Memory("134217728001m"), 4, "129Mi", ""},
		"the maximum":          {builders.MakeBottle("a").CPUs(16).Memory("1Ti"), 16, "1Ti", ""},
		"storage and overlay":  {disks("5G", "2Gi"), 4, "8Gi", "7Gi"}, // rounded up as for smolvm
		"only storage":         {disks("20Gi", ""), 4, "8Gi", "20Gi"},
		"only overlay":         {disks("", "10Gi"), 4, "8Gi", "10Gi"},
		"the largest disks":    {disks("64Ti", "64Ti"), 4, "8Gi", "128Ti"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := Resources(tc.bottle.Obj(), options)
			disk := resource.MustParse("1Gi")
			if tc.disk != "" {
				disk = resource.MustParse(tc.disk)
			}
			want := v1alpha1.ResourcesStatus{CPUs: tc.cpus, Memory: resource.MustParse(tc.memory), Disk: &disk,
				Bundle:   &v1alpha1.BundleResources{CPU: resource.MustParse("250m"), Memory: resource.MustParse("128Mi")},
				Overhead: &v1alpha1.OverheadResources{CPU: ptr.To(resource.MustParse("100m")), Memory: ptr.To(resource.MustParse("128Mi"))}}
			if !equality.Semantic.DeepEqual(got, want) {
				t.Errorf("got %+v with disk %s, want %+v with disk %s", got, got.Disk, want, &disk)
			}
		})
	}
}
