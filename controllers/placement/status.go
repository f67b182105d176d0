// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// Ownership. The manager owns nodeName, resources and Scheduled, always. Ready
// and EgressEnforced are the agent's; the manager writes them while there is
// no agent to do it. A field that an applier leaves out is taken away from
// it, and vanishes when nobody else owns it. So the manager lets go of a
// condition only once the agent owns its status, and carries it along as it
// is until then.

// conditionsToApply are the conditions that the manager's apply must carry:
// what it asserts, Scheduled, and what would vanish without it.
func conditionsToApply(b *v1alpha1.Bottle, w *wantedStatus, now metav1.Time) []metav1.Condition {
	var conditions []metav1.Condition
	for _, t := range []string{v1alpha1.ConditionScheduled, v1alpha1.ConditionReady, v1alpha1.ConditionEgressEnforced} {
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
			// Without a node there is nothing to be said of it.
		case have != nil && !agentOwns(b, t):
			conditions = append(conditions, *have)
		}
	}
	return conditions
}

// longestMessage is how long the API lets a condition's message be.
const longestMessage = 32768

// cut shortens the words of others to what a condition can hold.
func cut(message string) string {
	if len(message) <= longestMessage {
		return message
	}
	return strings.ToValidUTF8(message[:longestMessage], "")
}

// statusDiffers says whether applying would change anything but ownership.
func statusDiffers(b *v1alpha1.Bottle, w *wantedStatus, conditions []metav1.Condition) bool {
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

func sameResources(a, b *v1alpha1.ResourcesStatus) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.CPUs == b.CPUs && a.Memory.Cmp(b.Memory) == 0
}

// statusApply is the manager's whole share of a status. It carries the
// resourceVersion that was decided on: an apply from an older view could give
// the Bottle back a node that its agent has just left.
func statusApply(b *v1alpha1.Bottle, w *wantedStatus, conditions []metav1.Condition) (*unstructured.Unstructured, error) {
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

// clearPatch forgets the node and all that its agent wrote, in one write and
// only on the very version that was decided on. The start time stays: the
// deadline of a Bottle does not begin anew because its node was lost. So does a
// leak, which is held against the Bottle wherever it goes.
func clearPatch(b *v1alpha1.Bottle, w *wantedStatus, conditions []metav1.Condition) (client.Patch, error) {
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
		status["egress"] = map[string]any{"recentDenials": nil} // a leak goes along
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

// agentOwns says whether a condition would be whole without the manager: the
// agent owns all that the API requires of one. (Values that both wrote alike
// have two owners, so owning one of them says little.)
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
