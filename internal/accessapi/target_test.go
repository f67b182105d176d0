// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// The address of an agent comes from the cache if that has one, and otherwise from the
// API server.
func TestAgentAddress(t *testing.T) {
	t.Parallel()
	w := start(t)
	find := &finder{reader: w.client, cache: w.cache, namespace: testNamespace}
	for _, cached := range []string{"", "192.0.2.1:9443"} {
		want := w.agent.address
		if cached != "" {
			want = cached
			lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: testNamespace, Name: leasePrefix + testNode,
				Annotations: map[string]string{v1alpha1.AnnotationAgentAddress: cached}}}
			must(t, w.cache.Create(t.Context(), lease))
			must(t, w.cache.Create(t.Context(), nodeAt(testNode, "192.0.2.1")))
		}
		got, err := find.target(t.Context(), running("a").Obj())
		must(t, err)
		if got.address != want {
			t.Errorf("with %q in the cache: got %s, want %s", cached, got.address, want)
		}
	}
}
