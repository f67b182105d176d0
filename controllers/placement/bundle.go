// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/placeholder"
)

// Where a Bottle's bundle runs in its placeholder Pod, the machine needs that very Pod: it
// is in the Pod's cgroup, and ends with it. So the manager replaces such a Pod only if the
// Pod has ended, or while the machine is down. The agent, which alone knows that, asks for
// a Pod with the current spec.bundle before it starts the machine.

// inPod reports whether the bundle runs in the Bottle's placeholder.
func inPod(b *v1alpha1.Bottle) bool {
	return desired.BundleRuntime(b) == v1alpha1.BundleRuntimePod
}

// awaitsPod reports whether the agent keeps the machine down until the placeholder is
// replaced.
func awaitsPod(b *v1alpha1.Bottle) bool {
	return inPod(b) && isFalse(b, v1alpha1.ConditionBundleReady, v1alpha1.ReasonPodOutdated)
}

// replaceable reports whether replacing the placeholder of a Bottle on its node ends no
// machine.
func replaceable(f facts) bool {
	b := f.bottle
	return !inPod(b) || awaitsPod(b) || isFalse(b, v1alpha1.ConditionMachineReady, v1alpha1.ReasonStopped)
}

// confirmDown checks with the API server, not the cache, that replacing the placeholder
// ends no machine. It returns errStale if that is not certain, or if the reason to replace the
// Pod no longer holds.
func confirmDown(ctx context.Context, live client.Reader, f facts, d decision) error {
	now := &v1alpha1.Bottle{}
	if err := live.Get(ctx, client.ObjectKeyFromObject(f.bottle), now); err != nil {
		return fmt.Errorf("get Bottle %s/%s: %w", f.bottle.Namespace, f.bottle.Name, err)
	}
	before := f.bottle.Generation
	f.bottle = now
	switch {
	case !replaceable(f):
	case d.outdated != "" && (!awaitsPod(now) || now.Generation != before): // the agent wants no other Pod, or yet another one
	case d.twice != "" && now.Status.Bundle == nil: // which runtime has the bundle is not known any more
	default:
		return nil
	}
	return fmt.Errorf("replace placeholder Pod %s: %w", f.pod.name, errStale)
}

// isFalse reports whether the condition is False with this reason, as the agent reported it
// for the current spec. A report for an earlier spec proves nothing: an agent that acted for
// a spec in between may have started the machine.
func isFalse(b *v1alpha1.Bottle, condition, reason string) bool {
	c := meta.FindStatusCondition(b.Status.Conditions, condition)
	return c != nil && c.Status == metav1.ConditionFalse && c.Reason == reason && c.ObservedGeneration == b.Generation
}

// fate says what happened to the machine when its placeholder ended.
func fate(b *v1alpha1.Bottle) string {
	if inPod(b) {
		return "ended with it"
	}
	return "keeps running"
}

// twiceOf returns why a Pod must not run the bundle, which Docker runs, or "".
func twiceOf(pod *corev1.Pod, b *v1alpha1.Bottle) string {
	if placeholder.RunsTwice(pod, b) {
		return "it runs the image of spec.bundle, and so does the Docker Engine of its node"
	}
	return ""
}

// outdatedOf returns why a Pod does not run the bundle that the spec asks for, or "".
func outdatedOf(pod *corev1.Pod, b *v1alpha1.Bottle) string {
	switch {
	case len(pod.Spec.Containers) == 0 || pod.Spec.Containers[0].Name != placeholder.Container:
		return "an earlier manager made it, without a bundle"
	case pod.Annotations[v1alpha1.AnnotationBundle] != desired.BundleDigest(b):
		return "spec.bundle has changed"
	}
	return ""
}
