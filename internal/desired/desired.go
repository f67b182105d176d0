// SPDX-License-Identifier: Apache-2.0

// Package desired reads from a Bottle what its user and the manager request,
// with the defaults filled in. It is pure. It knows neither the node nor the
// state of the Bottle there.
package desired

import (
	"path"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/guestenv"
)

// Leaving reports whether the Bottle must be removed from its node.
func Leaving(b *v1alpha1.Bottle) bool { return !b.DeletionTimestamp.IsZero() || Evicted(b) }

// Evicted reports whether the manager evicted the Bottle from its node.
func Evicted(b *v1alpha1.Bottle) bool {
	c := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionScheduled)
	return c != nil && c.Status == metav1.ConditionFalse && c.Reason == v1alpha1.ReasonEvicted
}

// Stopped reports whether the user wants the Bottle's machine to be down.
func Stopped(b *v1alpha1.Bottle) bool {
	return b.Spec.DesiredState == v1alpha1.DesiredStateStopped
}

// BundlePorts returns the TCP ports of the bundle that the guest may reach.
func BundlePorts(b *v1alpha1.Bottle) []int32 {
	if b.Spec.Bundle != nil && len(b.Spec.Bundle.Ports) > 0 {
		return b.Spec.Bundle.Ports
	}
	return []int32{guestenv.ProxyPort}
}

// BundleImage returns the image of the bundle; "" means the built-in one.
func BundleImage(b *v1alpha1.Bottle) string {
	if b.Spec.Bundle == nil {
		return ""
	}
	return ptr.Deref(b.Spec.Bundle.Image, "")
}

// BundleRuntime returns the runtime of the Bottle's bundle as an agent reported it; "" if none
// reported a bundle. Earlier agents, which knew only docker, reported no runtime.
func BundleRuntime(b *v1alpha1.Bottle) v1alpha1.BundleRuntime {
	if b.Status.Bundle == nil {
		return ""
	}
	return ptr.Deref(b.Status.Bundle.Runtime, v1alpha1.BundleRuntimeDocker)
}

// BundleImageAllowed reports whether one of the globs (path.Match) matches an image.
func BundleImageAllowed(image string, globs []string) bool {
	return slices.ContainsFunc(globs, func(glob string) bool {
		ok, err := path.Match(glob, image)
		return err == nil && ok
	})
}

// CAPath returns the path, in the bundle's container, of the certificates that
// the guest must trust; "" means none.
func CAPath(b *v1alpha1.Bottle) string {
	if b.Spec.Bundle == nil {
		return ""
	}
	return ptr.Deref(b.Spec.Bundle.CAPath, "")
}
