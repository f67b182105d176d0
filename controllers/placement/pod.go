// SPDX-License-Identifier: Apache-2.0

package placement

import (
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/placeholder"
)

// observePod returns the properties of a Pod that decisions use, or nil.
func observePod(pod *corev1.Pod) *podFacts {
	if pod == nil {
		return nil
	}
	f := &podFacts{
		name:     pod.Name,
		created:  pod.CreationTimestamp.Time,
		node:     pod.Spec.NodeName,
		deleting: !pod.DeletionTimestamp.IsZero(),
		unheld:   !controllerutil.ContainsFinalizer(pod, v1alpha1.FinalizerMachine),
		marked:   beingReplaced(pod),
		digest:   pod.Annotations[placeholder.AnnotationDigest],
		ended:    endOf(pod),
		evicted:  evictedFrom(pod),
		failures: failuresBefore(pod),
		running:  pod.Status.Phase == corev1.PodRunning,
	}
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == corev1.PodScheduled {
			f.scheduled = &pod.Status.Conditions[i]
		}
	}
	return f
}
