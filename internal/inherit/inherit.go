// SPDX-License-Identifier: Apache-2.0

// Package inherit decides which labels and annotations of a Bottle its placeholder
// Pod gets. The Pod gets few of them: it serves nothing, so no Service and no
// NetworkPolicy should select it by accident. The package is pure. It does not know
// the labels that the manager itself gives to a placeholder, except for their prefix.
package inherit

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// LabelKeys are the labels that other systems read from a Pod to decide how to
// admit, inject or keep it. They are inherited, and docs/kubernetes.md lists them.
var LabelKeys = []string{
	// Istio: whether the Pod gets a sidecar or is in the ambient mesh.
	"istio.io/dataplane-mode",
	"istio.io/rev",
	"istio.io/use-waypoint",
	"istio.io/use-waypoint-namespace",
	"sidecar.istio.io/inject",
	// Kuma: whether the Pod gets a sidecar.
	"kuma.io/sidecar-injection",
	// Kueue: the queue of the Pod, its priority and its group.
	"kueue.x-k8s.io/max-exec-time-seconds",
	"kueue.x-k8s.io/pod-group-name",
	"kueue.x-k8s.io/priority-class",
	"kueue.x-k8s.io/queue-name",
	// Spot Ocean: whether the Pod's node may be scaled down.
	"spotinst.io/restrict-scale-down",
}

// AnnotationKeys are the annotations that autoscalers, drains and admission read
// from a Pod. They are inherited, and docs/kubernetes.md lists them. A key that ends
// in a slash stands for all keys with this prefix.
var AnnotationKeys = []string{
	// Cluster Autoscaler, GKE's included, and its ProvisioningRequests.
	"autoscaling.x-k8s.io/",
	"cluster-autoscaler.kubernetes.io/",
	// CAST AI.
	"autoscaling.cast.ai/",
	// Karpenter, EKS Auto Mode and AKS node auto-provisioning. Karpenter also reads
	// the deletion cost.
	"controller.kubernetes.io/pod-deletion-cost",
	"karpenter.sh/",
	// The descheduler.
	"descheduler.alpha.kubernetes.io/",
	"descheduler.kubernetes.io/",
	// Kueue. It writes others to the Pod itself, so they are not listed by prefix.
	"kueue.x-k8s.io/pod-group-fast-admission",
	"kueue.x-k8s.io/pod-group-total-count",
	"kueue.x-k8s.io/podset-preferred-topology",
	"kueue.x-k8s.io/podset-required-topology",
	"kueue.x-k8s.io/podset-unconstrained-topology",
	"kueue.x-k8s.io/retriable-in-group",
	"provreq.kueue.x-k8s.io/",
	// Service meshes that read an annotation to decide about a sidecar.
	"linkerd.io/inject",
	"sidecar.istio.io/inject",
}

// Labels returns the labels that a placeholder inherits: those whose keys a selector
// for Pods in spec.scheduling names, and those in LabelKeys. A key with our prefix
// is never inherited, so no Bottle can change what our own labels say.
func Labels(b *v1alpha1.Bottle) map[string]string {
	named := selected(b.Spec.Scheduling)
	return filter(b.Labels, func(key string) bool { return named[key] || slices.Contains(LabelKeys, key) })
}

// maxAnnotations is the size of all annotations that a placeholder inherits, in bytes.
// Together with the operator's own they must stay below the API server's limit of 256 KiB:
// otherwise a tenant could make it refuse the successor of an ended placeholder, and its
// machine would run on without being counted.
const maxAnnotations = 16 << 10

// Annotations returns the annotations that a placeholder inherits: those in
// AnnotationKeys, in the order of their keys, as long as they fit.
func Annotations(b *v1alpha1.Bottle) map[string]string {
	out := filter(b.Annotations, func(key string) bool {
		return slices.ContainsFunc(AnnotationKeys, func(listed string) bool {
			return key == listed || strings.HasSuffix(listed, "/") && strings.HasPrefix(key, listed)
		})
	})
	size := 0
	for _, key := range slices.Sorted(maps.Keys(out)) {
		if size += len(key) + len(out[key]); size > maxAnnotations {
			size -= len(key) + len(out[key])
			delete(out, key)
		}
	}
	return out
}

func filter(all map[string]string, inherited func(key string) bool) map[string]string {
	out := maps.Clone(all)
	maps.DeleteFunc(out, func(key, _ string) bool { return ours(key) || !inherited(key) })
	if out == nil {
		out = map[string]string{}
	}
	return out
}

// ours reports whether a key has our prefix or one below it.
func ours(key string) bool {
	prefix, _, _ := strings.Cut(key, "/")
	return prefix == v1alpha1.GroupVersion.Group || strings.HasSuffix(prefix, "."+v1alpha1.GroupVersion.Group)
}

// selected returns the keys that the selectors for Pods in spec.scheduling name.
// Node selectors and namespace selectors do not count: they do not select Pods.
func selected(s *v1alpha1.Scheduling) map[string]bool {
	keys := map[string]bool{}
	if s == nil {
		return keys
	}
	add := func(selector *metav1.LabelSelector, lists ...[]string) {
		if selector != nil {
			for key := range selector.MatchLabels {
				keys[key] = true
			}
			for _, r := range selector.MatchExpressions {
				keys[r.Key] = true
			}
		}
		for _, key := range slices.Concat(lists...) {
			keys[key] = true
		}
	}
	for _, t := range podTerms(s.Affinity) {
		add(t.LabelSelector, t.MatchLabelKeys, t.MismatchLabelKeys)
	}
	for _, c := range s.TopologySpreadConstraints {
		add(c.LabelSelector, c.MatchLabelKeys)
	}
	return keys
}

// podTerms returns all terms of the affinity and anti-affinity to other Pods.
func podTerms(a *corev1.Affinity) (terms []corev1.PodAffinityTerm) {
	if a == nil {
		return nil
	}
	var weighted []corev1.WeightedPodAffinityTerm
	if p := a.PodAffinity; p != nil {
		terms = append(terms, p.RequiredDuringSchedulingIgnoredDuringExecution...)
		weighted = append(weighted, p.PreferredDuringSchedulingIgnoredDuringExecution...)
	}
	if p := a.PodAntiAffinity; p != nil {
		terms = append(terms, p.RequiredDuringSchedulingIgnoredDuringExecution...)
		weighted = append(weighted, p.PreferredDuringSchedulingIgnoredDuringExecution...)
	}
	for _, w := range weighted {
		terms = append(terms, w.PodAffinityTerm)
	}
	return terms
}
