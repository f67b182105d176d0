// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/agentstatus"
)

// statusWriter writes what the agent reports.
type statusWriter struct {
	client client.Client
	events *reporter
}

// write writes what the pass found out in one server-side apply, and only if
// that differs from the current status. The apply carries the resourceVersion
// that the pass read: after a Bottle has moved to another node, an agent that
// does not know this yet must not overwrite the status from its successor.
func (w *statusWriter) write(ctx context.Context, s *scope, conds []metav1.Condition) error {
	observed := s.bottle.Status
	before, after := ownedStatus(observed), s.status
	before.Conditions, after.Conditions = byType(agentstatus.Owned(observed.Conditions)), byType(conds)
	if equality.Semantic.DeepEqual(before, after) {
		return nil
	}
	status, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&after)
	if err != nil {
		return fmt.Errorf("status of bottle %s: %w", s.key(), err)
	}
	u := &unstructured.Unstructured{Object: map[string]any{"status": status}}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Bottle"))
	u.SetNamespace(s.bottle.Namespace)
	u.SetName(s.bottle.Name)
	u.SetResourceVersion(s.bottle.ResourceVersion)
	err = w.client.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(u),
		client.FieldOwner(v1alpha1.AgentFieldOwner), client.ForceOwnership)
	if err != nil {
		return fmt.Errorf("write the status of bottle %s: %w", s.key(), err)
	}
	w.events.conditions(ctx, s, observed.Conditions, conds)
	return nil
}

func byType(conds []metav1.Condition) []metav1.Condition {
	out := slices.Clone(conds)
	slices.SortFunc(out, func(a, b metav1.Condition) int { return cmp.Compare(a.Type, b.Type) })
	return out
}

// ownedStatus returns what the agent writes of a status, without conditions.
func ownedStatus(st v1alpha1.BottleStatus) v1alpha1.BottleStatus {
	out := *st.DeepCopy()
	out.NodeName, out.Resources, out.Conditions = nil, nil, nil
	return out
}

// clear returns the Bottle to the manager: one merge patch removes the node and
// all that the agent reported. It fails if somebody else wrote in between.
func (w *statusWriter) clear(ctx context.Context, b *v1alpha1.Bottle) error {
	keep := slices.DeleteFunc(slices.Clone(b.Status.Conditions), func(c metav1.Condition) bool {
		return slices.Contains(agentstatus.Types, c.Type)
	})
	if meta.FindStatusCondition(keep, v1alpha1.ConditionScheduled) == nil {
		return fmt.Errorf("bottle %s: has no condition %s", key(b), v1alpha1.ConditionScheduled)
	}
	var egress any
	if e := b.Status.Egress; e != nil && e.Leak != nil {
		egress = map[string]any{"recentDenials": nil, "closedByPlatform": nil, "credentials": nil} // a leak moves with the Bottle
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": b.ResourceVersion},
		"status": map[string]any{
			"nodeName": nil, "observedGeneration": nil, "startTime": nil, "network": nil, "smolfile": nil,
			"bundle": nil, "image": nil, "machine": nil, "workload": nil, "conditions": keep,
			"egress": egress,
		},
	})
	if err != nil {
		return err
	}
	return w.client.Status().Patch(ctx, b.DeepCopy(), client.RawPatch("application/merge-patch+json", patch))
}
