// SPDX-License-Identifier: Apache-2.0

package inherit

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
)

func setBy(manager, subresource, fields string) metav1.ManagedFieldsEntry {
	return metav1.ManagedFieldsEntry{Manager: manager, Subresource: subresource, Operation: metav1.ManagedFieldsOperationUpdate, FieldsV1: metav1.NewFieldsV1(fields)}
}

func TestChange(t *testing.T) {
	// The Bottle's label team is inherited, and its label app is not.
	b := builders.MakeBottle("a").Label("team", "x").Label("app", "web").Annotation("karpenter.sh/do-not-disrupt", "true").Obj()
	b.Spec.Scheduling = &v1alpha1.Scheduling{TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{LabelSelector: matching("team")}}}
	created := setBy("bottle-manager", "", `{"f:metadata":{"f:labels":{".":{},"f:app":{},"f:old":{},"f:team":{},"f:botbottle.dev/uid":{}},`+
		`"f:annotations":{".":{},"f:karpenter.sh/do-not-disrupt":{},"f:botbottle.dev/name":{},"f:cluster-autoscaler.kubernetes.io/safe-to-evict":{}}},"f:spec":{"f:containers":{}}}`)
	tests := map[string]struct {
		labels, annotations map[string]string
		managed             []metav1.ManagedFieldsEntry
		want                [2]Change
	}{
		"up to date": {
			map[string]string{"team": "x", "botbottle.dev/uid": "1"}, map[string]string{"karpenter.sh/do-not-disrupt": "true", "botbottle.dev/name": "a"},
			[]metav1.ManagedFieldsEntry{created}, [2]Change{{}, {}},
		},
		"missing": {nil, nil, []metav1.ManagedFieldsEntry{created}, [2]Change{{"team": ptr.To("x")}, {"karpenter.sh/do-not-disrupt": ptr.To("true")}}},
		"changed": {
			map[string]string{"team": "y"}, map[string]string{"karpenter.sh/do-not-disrupt": "false"},
			[]metav1.ManagedFieldsEntry{created}, [2]Change{{"team": ptr.To("x")}, {"karpenter.sh/do-not-disrupt": ptr.To("true")}},
		},
		// An earlier manager copied all labels, also one that the Bottle no longer has.
		"no longer inherited": {
			map[string]string{"team": "x", "app": "web", "old": "z"},
			map[string]string{"karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
			[]metav1.ManagedFieldsEntry{created}, [2]Change{{"app": nil, "old": nil}, {"cluster-autoscaler.kubernetes.io/safe-to-evict": nil}},
		},
		"set by others": {
			map[string]string{"team": "x", "kueue.x-k8s.io/managed": "true"}, map[string]string{"karpenter.sh/do-not-disrupt": "true", "karpenter.sh/disruption-cost": "1"},
			[]metav1.ManagedFieldsEntry{created, setBy("kueue", "", `{"f:metadata":{"f:labels":{"f:kueue.x-k8s.io/managed":{}}}}`)}, [2]Change{{}, {}},
		},
		"written through a subresource": {
			map[string]string{"team": "x", "app": "web"}, map[string]string{"karpenter.sh/do-not-disrupt": "true"},
			[]metav1.ManagedFieldsEntry{setBy("bottle-manager", "", `{}`), setBy("bottle-manager", "status", `{"f:metadata":{"f:labels":{"f:app":{}}}}`)}, [2]Change{{}, {}},
		},
		// The Bottle has the label app with this value, but not the label other.
		"no record": {
			map[string]string{"team": "x", "app": "web", "other": "z"}, map[string]string{"karpenter.sh/do-not-disrupt": "true", "karpenter.sh/disruption-cost": "1"},
			nil, [2]Change{{"app": nil}, {}},
		},
		"no record, another value": {map[string]string{"team": "x", "app": "api"}, map[string]string{"karpenter.sh/do-not-disrupt": "true"}, nil, [2]Change{{}, {}}},
		"a damaged record": {
			map[string]string{"team": "x", "app": "web"}, map[string]string{"karpenter.sh/do-not-disrupt": "true"},
			[]metav1.ManagedFieldsEntry{setBy("bottle-manager", "", `{"f:metadata":[]}`)}, [2]Change{{}, {}},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: tc.labels, Annotations: tc.annotations, ManagedFields: tc.managed}}
			if diff := cmp.Diff(tc.want, [2]Change{LabelChange(b, pod), AnnotationChange(b, pod)}); diff != "" {
				t.Errorf("changes of labels and annotations (-want +got):\n%s", diff)
			}
			pod.ManagedFields = Record(tc.managed) // as in the manager's cache
			if diff := cmp.Diff(tc.want, [2]Change{LabelChange(b, pod), AnnotationChange(b, pod)}); diff != "" {
				t.Errorf("changes of labels and annotations, from the cache (-want +got):\n%s", diff)
			}
		})
	}
}
