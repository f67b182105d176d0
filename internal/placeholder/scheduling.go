// SPDX-License-Identifier: Apache-2.0

package placeholder

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

func copyScheduling(pod *corev1.Pod, b *v1alpha1.Bottle, pin string) {
	s := b.Spec.Scheduling
	if s == nil {
		s = &v1alpha1.Scheduling{}
	}
	s = s.DeepCopy()
	pod.Spec.Tolerations = s.Tolerations
	pod.Spec.PriorityClassName = ptr.Deref(s.PriorityClassName, "")
	if pin != "" {
		// The scheduler counts a Pod with a node from its creation on, even if the node
		// has no room or is cordoned: the machine uses the resources in any case.
		pod.Spec.NodeName = pin
		pod.Spec.Affinity = pinned(nil, pin)
		return
	}
	pod.Spec.NodeSelector = s.NodeSelector
	pod.Spec.TopologySpreadConstraints = s.TopologySpreadConstraints
	pod.Spec.Affinity = s.Affinity
	if node := ptr.Deref(b.Spec.NodeName, ""); node != "" {
		pod.Spec.Affinity = pinned(s.Affinity, node)
	}
}

// pinned returns affinity a, restricted to one node. The terms of a node selector
// are alternatives, so each of them is restricted.
func pinned(a *corev1.Affinity, node string) *corev1.Affinity {
	pin := corev1.NodeSelectorRequirement{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}
	out := &corev1.Affinity{}
	if a != nil {
		out = a.DeepCopy()
	}
	if out.NodeAffinity == nil {
		out.NodeAffinity = &corev1.NodeAffinity{}
	}
	required := out.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if required == nil {
		out.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{pin}}},
		}
		return out
	}
	for i := range required.NodeSelectorTerms {
		term := &required.NodeSelectorTerms[i]
		if len(term.MatchFields)+len(term.MatchExpressions) > 0 { // an empty term matches nothing, and must stay that way
			term.MatchFields = append(term.MatchFields, pin)
		}
	}
	return out
}
