// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// Ownership: the manager always owns nodeName, resources and Scheduled. The agent
// owns Ready and EgressEnforced, but the manager writes them while no agent can.
// An applier loses ownership of a field that it leaves out, and the field
// disappears if nobody else owns it. So the manager keeps applying a condition
// unchanged until the agent owns it.

// conditionsToApply returns the conditions that the manager's apply must include:
// those that it asserts, Scheduled, and those that would otherwise disappear.
func conditionsToApply(b *v1alpha1.Bottle, w *desiredStatus, now metav1.Time) []metav1.Condition {
	var conditions []metav1.Condition
	for _, kind := range v1alpha1.ConditionTypes {
		if !kind.Manager {
			continue
		}
		t := kind.Type
		have := meta.FindStatusCondition(b.Status.Conditions, t)
		asserted := meta.FindStatusCondition(w.asserted, t)
		switch {
		case asserted != nil:
			c := *asserted
			c.Message = cut(c.Message)
			c.ObservedGeneration = b.Generation
			c.LastTransitionTime = now
			if have != nil && have.Status == c.Status {
				c.LastTransitionTime = have.LastTransitionTime
			}
			conditions = append(conditions, c)
		case t == v1alpha1.ConditionEgressEnforced && w.nodeName == "":
			// Without a node there is no egress to report on.
		case have != nil && !agentOwns(b, t):
			conditions = append(conditions, *have)
		}
	}
	return conditions
}

// longestMessage is the API's limit on a condition's message, in bytes.
const longestMessage = 32768

// cut shortens a message from elsewhere to longestMessage.
func cut(message string) string {
	if len(message) <= longestMessage {
		return message
	}
	return strings.ToValidUTF8(message[:longestMessage], "")
}

// statusDiffers reports whether applying would change more than ownership.
func statusDiffers(b *v1alpha1.Bottle, w *desiredStatus, conditions []metav1.Condition) bool {
	if ptr.Deref(b.Status.NodeName, "") != w.nodeName || !sameResources(b.Status.Resources, w.resources) {
		return true
	}
	for _, c := range conditions {
		have := meta.FindStatusCondition(b.Status.Conditions, c.Type)
		if have == nil || have.Status != c.Status || have.Reason != c.Reason || have.Message != c.Message || have.ObservedGeneration != c.ObservedGeneration {
			return true
		}
	}
	return false
}

func sameResources(a, b *v1alpha1.ResourcesStatus) bool { return equality.Semantic.DeepEqual(a, b) }

// statusApply returns the manager's whole share of a status. It includes the
// resourceVersion that the decision is based on, because an apply from an older
// view could restore a node that the agent has just cleared.
func statusApply(b *v1alpha1.Bottle, w *desiredStatus, conditions []metav1.Condition) (*unstructured.Unstructured, error) {
	status := v1alpha1.BottleStatus{Resources: w.resources, Conditions: conditions}
	if w.nodeName != "" {
		status.NodeName = &w.nodeName
	}
	data, err := json.Marshal(status)
	if err != nil {
		return nil, fmt.Errorf("encode the status: %w", err)
	}
	var content map[string]any
	if err := json.Unmarshal(data, &content); err != nil {
		return nil, fmt.Errorf("decode the status: %w", err)
	}
	u := &unstructured.Unstructured{Object: map[string]any{"status": content}}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Bottle"))
	u.SetNamespace(b.Namespace)
	u.SetName(b.Name)
	u.SetUID(b.UID)
	u.SetResourceVersion(b.ResourceVersion)
	return u, nil
}

// clearPatch removes the node, and everything that its agent wrote, in one write.
// It applies only to the version that the decision is based on. The start time
// stays, because losing the node does not restart a Bottle's deadline. A leak
// also stays, because it counts against the Bottle on every node.
func clearPatch(b *v1alpha1.Bottle, w *desiredStatus, conditions []metav1.Condition) (client.Patch, error) {
	data, err := json.Marshal(b.Status)
	if err != nil {
		return nil, fmt.Errorf("encode the status: %w", err)
	}
	status := map[string]any{}
	if err := json.Unmarshal(data, &status); err != nil {
		return nil, fmt.Errorf("decode the status: %w", err)
	}
	for key := range status {
		status[key] = nil
	}
	delete(status, "startTime")
	if e := b.Status.Egress; e != nil && e.Leak != nil {
		status["egress"] = map[string]any{"recentDenials": nil} // keep the leak
	}
	status["resources"] = w.resources
	status["conditions"] = conditions
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": b.UID, "resourceVersion": b.ResourceVersion},
		"status":   status,
	})
	if err != nil {
		return nil, fmt.Errorf("encode the patch: %w", err)
	}
	return client.RawPatch(types.MergePatchType, patch), nil
}

// agentOwns reports whether a condition would be complete without the manager:
// whether the agent owns every field that the API requires. (A value that both
// wrote has two owners, so owning one field says little.)
func agentOwns(b *v1alpha1.Bottle, conditionType string) bool {
	key := fmt.Sprintf(`k:{"type":%q}`, conditionType)
	for _, entry := range b.ManagedFields {
		if entry.Manager != v1alpha1.AgentFieldOwner || entry.Subresource != "status" || entry.FieldsV1 == nil {
			continue
		}
		var fields struct {
			Status struct {
				Conditions map[string]map[string]any `json:"f:conditions"`
			} `json:"f:status"`
		}
		if err := json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields); err != nil {
			continue
		}
		owned := 0
		for _, field := range []string{"f:status", "f:reason", "f:message", "f:lastTransitionTime"} {
			if _, has := fields.Status.Conditions[key][field]; has {
				owned++
			}
		}
		if owned == 4 {
			return true
		}
	}
	return false
}
