// SPDX-License-Identifier: Apache-2.0

package placement_test

import (
	"cmp"
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/api/apienv"
)

// These helpers act as the agent of a Bottle's node, with the agent's own RBAC.

func (w *world) agentOf(b *v1alpha1.Bottle) client.Client {
	w.Helper()
	return apienv.Client(w.T, apienv.AsAgent(w.cfg, ptr.Deref(b.Status.NodeName, "")))
}

// takeOver adds the agent's finalizer and applies its share of the status.
func (w *world) takeOver(name string) {
	w.Helper()
	b := w.bottle(name)
	before := b.DeepCopy()
	if controllerutil.AddFinalizer(b, v1alpha1.FinalizerNode) {
		w.must(w.agentOf(b).Patch(w.Context(), b, client.MergeFrom(before)))
	}
	w.report(name, "Proving")
}

// report applies the agent's share of the status. Ready and EgressEnforced get
// this reason. EgressEnforced is True if the reason is "Proven", else Unknown.
func (w *world) report(name, reason string) {
	w.Helper()
	w.apply(name, reported(name, reason))
}

func reported(name, reason string) v1alpha1.BottleStatus {
	proven := metav1.ConditionUnknown
	if reason == "Proven" {
		proven = metav1.ConditionTrue
	}
	return v1alpha1.BottleStatus{
		Network: &v1alpha1.NetworkStatus{Subnet: "192.168.44.0/24", Gateway: "192.168.44.1", BundleIP: "192.168.44.2"},
		Machine: &v1alpha1.MachineStatus{Name: "bottle-" + name},
		Egress: &v1alpha1.EgressStatus{
			RecentDenials: []string{"denied.test:443"},
			Leak:          &v1alpha1.EgressLeak{Time: metav1.Now(), Path: "tcp to the node", Asked: "generation 1"},
		},
		Conditions: []metav1.Condition{
			asserted(v1alpha1.ConditionReady, metav1.ConditionFalse, reason),
			asserted(v1alpha1.ConditionEgressEnforced, proven, reason),
			asserted(v1alpha1.ConditionMachineReady, metav1.ConditionTrue, "MachineRunning"),
		},
	}
}

func asserted(condition string, status metav1.ConditionStatus, reason string) metav1.Condition {
	return metav1.Condition{Type: condition, Status: status, Reason: reason, Message: "set by a test", LastTransitionTime: metav1.Now()}
}

// inPod applies the status of an agent that runs the bundle in the placeholder. The
// machine is down for this reason; it runs if the reason is "".
func (w *world) inPod(name, reason string) {
	w.Helper()
	s := reported(name, "Proven")
	s.Bundle = &v1alpha1.BundleStatus{Name: s.Machine.Name, Runtime: ptr.To(v1alpha1.BundleRuntimePod)}
	bundle, machine := metav1.ConditionTrue, metav1.ConditionTrue
	switch reason {
	case "":
	case v1alpha1.ReasonStopped:
		machine = metav1.ConditionFalse
	default:
		bundle, machine = metav1.ConditionFalse, metav1.ConditionUnknown
	}
	reason = cmp.Or(reason, v1alpha1.ReasonReady)
	s.Conditions = append(s.Conditions[:2], asserted(v1alpha1.ConditionMachineReady, machine, reason), asserted(v1alpha1.ConditionBundleReady, bundle, reason))
	w.apply(name, s)
}

// apply applies the agent's share of the status.
func (w *world) apply(name string, status v1alpha1.BottleStatus) {
	w.Helper()
	generation := w.bottle(name).Generation
	for i := range status.Conditions {
		status.Conditions[i].ObservedGeneration = cmp.Or(status.Conditions[i].ObservedGeneration, generation)
	}
	u := &unstructured.Unstructured{Object: map[string]any{"status": w.plain(status)}}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Bottle"))
	u.SetNamespace(w.ns)
	u.SetName(name)
	w.must(w.agentOf(w.bottle(name)).Status().Apply(w.Context(), client.ApplyConfigurationFromUnstructured(u),
		client.FieldOwner(v1alpha1.AgentFieldOwner), client.ForceOwnership))
}

// leave clears the node in the status, as an agent does once nothing of the
// Bottle is left on its node.
func (w *world) leave(name string) {
	w.Helper()
	b := w.bottle(name)
	var kept []metav1.Condition
	for _, c := range b.Status.Conditions {
		if c.Type == v1alpha1.ConditionScheduled {
			kept = append(kept, c)
		}
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": b.ResourceVersion},
		"status":   map[string]any{"nodeName": nil, "network": nil, "machine": nil, "conditions": kept},
	})
	w.must(err)
	w.must(w.agentOf(b).Status().Patch(w.Context(), b, client.RawPatch(types.MergePatchType, patch), client.FieldOwner(v1alpha1.AgentFieldOwner)))
}

// tornDown removes the agent's finalizer, as an agent does after a teardown.
func (w *world) tornDown(name string) {
	w.Helper()
	b := w.bottle(name)
	before := b.DeepCopy()
	controllerutil.RemoveFinalizer(b, v1alpha1.FinalizerNode)
	w.must(w.agentOf(b).Patch(w.Context(), b, client.MergeFrom(before)))
}

func (w *world) plain(v any) any {
	w.Helper()
	data, err := json.Marshal(v)
	w.must(err)
	var out any
	w.must(json.Unmarshal(data, &out))
	return out
}
