// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// What status.resources records must be requested by the Pod: the machine, its
// bundle and its disk. An earlier manager recorded and booked only the machine.
func TestUnbooked(t *testing.T) {
	recorded := v1alpha1.ResourcesStatus{
		CPUs: 2, Memory: resource.MustParse("1Gi"), Disk: ptr.To(resource.MustParse("3Gi")),
		Bundle: &v1alpha1.BundleResources{CPU: resource.MustParse("250m"), Memory: resource.MustParse("128Mi")},
	}
	overhead := recorded
	overhead.Overhead = &v1alpha1.OverheadResources{CPU: ptr.To(resource.MustParse("100m"))}
	earlier := recorded
	earlier.Disk, earlier.Bundle = nil, nil
	for name, tt := range map[string]struct {
		recorded          v1alpha1.ResourcesStatus
		cpu, memory, disk string
		want              string // in the answer; "" means that all is booked
	}{
		"all":                    {recorded, "2250m", "1152Mi", "3Gi", ""},
		"no room for the bundle": {recorded, "2", "1152Mi", "3Gi", "2 of cpu instead of 2250m"},
		"no memory for it":       {recorded, "2250m", "1Gi", "3Gi", "1Gi of memory instead of 1152Mi"},
		"no disk":                {recorded, "2250m", "1152Mi", "0", "0 of ephemeral-storage instead of 3Gi"},
		"with the overhead":      {overhead, "2350m", "1152Mi", "3Gi", ""},
		"without the overhead":   {overhead, "2250m", "1152Mi", "3Gi", "2250m of cpu instead of 2350m"},
		"of an earlier manager":  {earlier, "2", "1Gi", "0", ""},
	} {
		b := &v1alpha1.Bottle{}
		b.Status.Resources = &tt.recorded
		pod := &corev1.Pod{}
		pod.Spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(tt.cpu), corev1.ResourceMemory: resource.MustParse(tt.memory),
			corev1.ResourceEphemeralStorage: resource.MustParse(tt.disk), v1alpha1.ResourceBottle: resource.MustParse("1"),
		}}}}
		if got := unbookedOf(pod, b); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
}
