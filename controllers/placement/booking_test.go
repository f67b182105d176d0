// SPDX-License-Identifier: Apache-2.0

package placement_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
)

// TestBookingOfDiskAndBundle checks that a Bottle's disks and bundle are booked,
// also in a namespace with a LimitRange and a quota for them, and stay booked
// while the Bottle is stopped.
func TestBookingOfDiskAndBundle(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	node, _ := w.node("a")
	one := corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("1")}
	limits := &corev1.LimitRange{Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
		Type: corev1.LimitTypeContainer, MaxLimitRequestRatio: one,
		Default:        corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("2Gi")},
		DefaultRequest: corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("1Mi")},
	}}}}
	limits.Namespace, limits.Name = w.ns, "l"
	w.must(w.c.Create(t.Context(), limits))
	quota := &corev1.ResourceQuota{}
	quota.Namespace, quota.Name = w.ns, "q"
	quota.Spec.Hard = corev1.ResourceList{corev1.ResourceRequestsEphemeralStorage: resource.MustParse("30Gi"), corev1.ResourceLimitsEphemeralStorage: resource.MustParse("30Gi")}
	w.must(w.c.Create(t.Context(), quota))
	quota.Status.Hard = quota.Spec.Hard
	quota.Status.Used = corev1.ResourceList{corev1.ResourceRequestsEphemeralStorage: resource.MustParse("0"), corev1.ResourceLimitsEphemeralStorage: resource.MustParse("0")}
	w.must(w.c.Status().Update(t.Context(), quota))

	big := builders.MakeBottle("big").Obj()
	big.Spec.Machine = &v1alpha1.Machine{Storage: ptr.To(resource.MustParse("20Gi")), Overlay: ptr.To(resource.MustParse("10Gi"))}
	b := w.placed(big, node)
	bundle := &v1alpha1.BundleResources{CPU: resource.MustParse("250m"), Memory: resource.MustParse("128Mi")}
	want := &v1alpha1.ResourcesStatus{CPUs: 2, Memory: resource.MustParse("2Gi"), Disk: ptr.To(resource.MustParse("30Gi")), Bundle: bundle,
		Overhead: &v1alpha1.OverheadResources{CPU: ptr.To(resource.MustParse("100m")), Memory: ptr.To(resource.MustParse("128Mi"))}}
	if !equality.Semantic.DeepEqual(b.Status.Resources, want) {
		t.Errorf("status.resources (-want +got):\n%s", cmp.Diff(want, b.Status.Resources))
	}
	pod := w.pod("big")
	requests := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("2350m"), corev1.ResourceMemory: resource.MustParse("2304Mi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("30Gi"), v1alpha1.ResourceBottle: resource.MustParse("1"),
	}
	booked := func(p *corev1.Pod) string {
		got := p.Spec.Containers[0].Resources
		if !equality.Semantic.DeepEqual(got.Requests, requests) || !equality.Semantic.DeepEqual(got.Limits, requests) {
			return fmt.Sprintf("got requests %v and limits %v, want both to be %v", got.Requests, got.Limits, requests)
		}
		return ""
	}
	if problem := booked(pod); problem != "" {
		t.Error(problem)
	}

	w.takeOver("big")
	w.desire("big", v1alpha1.DesiredStateStopped)
	w.always(func() string {
		pods := w.pods("big")
		if len(pods) != 1 || pods[0].UID != pod.UID {
			return "the stopped Bottle lost its placeholder Pod"
		}
		return booked(&pods[0])
	})
	// The quota has no room for the default of 1Gi beside the stopped Bottle.
	w.create(builders.MakeBottle("small").Obj())
	w.waitScheduled("small", "False PlaceholderRefused")
}

// TestPlacementsOfAnEarlierManagerStay checks that a manager that books more than
// its predecessor leaves placed Bottles and their Pods alone.
func TestPlacementsOfAnEarlierManagerStay(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	node, _ := w.node("a")
	w.placed(builders.MakeBottle("a").Obj(), node)
	w.takeOver("a")
	w.stop()
	// Make everything look as the earlier manager left it.
	b := w.bottle("a")
	old := &v1alpha1.ResourcesStatus{CPUs: 2, Memory: resource.MustParse("2Gi")}
	b.Status.Resources = old
	w.must(w.c.Status().Update(t.Context(), b))
	pod := w.pod("a")
	before := pod.DeepCopy()
	pod.Annotations["botbottle.dev/placeholder-digest"] = "bc108a2ddee261cd"
	w.must(w.c.Patch(t.Context(), pod, client.MergeFrom(before)))

	w.start(interceptor.Funcs{})
	w.newGeneration("a", 2) // the new manager makes a pass
	w.always(func() string {
		pods, b := w.pods("a"), w.bottle("a")
		switch {
		case len(pods) != 1 || pods[0].UID != pod.UID || !pods[0].DeletionTimestamp.IsZero():
			return "the placeholder Pod was replaced"
		case ptr.Deref(b.Status.NodeName, "") != node || !equality.Semantic.DeepEqual(b.Status.Resources, old):
			return fmt.Sprintf("the status changed: %+v", b.Status)
		}
		return ""
	})
}
