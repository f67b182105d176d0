// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/subnet"
	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/require"
)

// The Pod of a Bottle is the bundle. Every wall is taken away, and whatever can happen to
// a Pod happens to it.
func TestLongPodOfABottle(t *testing.T) {
	require.Long(t)
	w := connect(t)
	w.needPods(t)
	w.startPods(t)
	w.startKept(t)
	w.breakWalls(t, breaches)
	w.disturb(t, disturbances)
}

// Two Bottles with one slug have the same subnet, the one of the formula, because it exists
// in their own namespaces only.
func TestLongTwoBottlesWithOneSlug(t *testing.T) {
	require.Long(t)
	w := connect(t)
	w.needPods(t)
	first, second := w.Namespace(t), w.Namespace(t)
	var bottles []*v1alpha1.Bottle
	for _, ns := range []string{first, second} {
		b := builders.MakeBottle("twin").Namespace(ns).Slug("twin").Obj()
		// The node has no room for two disks of the default size.
		b.Spec.Machine = &v1alpha1.Machine{Storage: ptr.To(resource.MustParse("2Gi")), Overlay: ptr.To(resource.MustParse("2Gi"))}
		w.Apply(t, b)
		bottles = append(bottles, b)
	}
	w.WaitRunning(t, bottles...)
	want, err := subnet.Default().Pick("twin", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range bottles {
		if got := b.Status.Network.Subnet; got != want.Subnet.String() {
			t.Errorf("network of Bottle %d: got %s, want the formula's first choice %s", i, got, want.Subnet)
		}
		w.kept = b
		w.wantBundleReached(t)
		// Its own bundle answers, not the other Bottle's.
		if log := w.BundleLog(t, b); !strings.Contains(log, `"event":"rules"`) {
			t.Errorf("log of bundle %d: got %q, want its rules", i, log)
		}
	}
}

// needPods ends the test unless the bundles of the cluster run in Pods.
func (w *world) needPods(t *testing.T) {
	t.Helper()
	if !w.OnPods(t) {
		require.Unmet(t, "needs a cluster whose bundles run in Pods: make dev-up KUBELET=real, without BUNDLE_RUNTIME=docker")
	}
}
