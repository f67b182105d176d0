// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/desired"
)

// namespaceTerminating reports whether a create failed because its namespace is being
// deleted or is already gone.
func namespaceTerminating(err error) bool {
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return true
	}
	var status apierrors.APIStatus
	if !apierrors.IsNotFound(err) || !errors.As(err, &status) {
		return false
	}
	details := status.Status().Details
	return details != nil && details.Kind == "namespaces"
}

// refused reports whether the API server understood the request and rejected it: because of a
// quota, a limit, a policy, an unknown priority class or invalid values.
func refused(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)
}

func forbiddenImage(image string) string {
	return fmt.Sprintf("spec.bundle.image %s is not allowed: choose another image, or ask an administrator to add it to the chart's value bundle.allowedImages (the flag --allowed-bundle-images of the manager and the agents)", image)
}

// refusalReason is the reason of Scheduled if no placeholder can be created.
func (f facts) refusalReason() string {
	if f.forbidden {
		return v1alpha1.ReasonBundleImageNotAllowed
	}
	return v1alpha1.ReasonPlaceholderRefused
}

// noNewPod says why no Pod takes the place of another one.
func (f facts) noNewPod() string {
	if f.forbidden {
		return "and no new one is created: " + f.refusal
	}
	return "and the API server refused a new one: " + f.refusal
}

// explainRefusal returns the API server's reason for refusing a placeholder, and what the
// user can do about it if that is not obvious.
func explainRefusal(b *v1alpha1.Bottle, err error) string {
	text := err.Error()
	if image := desired.BundleImage(b); image != "" && strings.Contains(text, "violates PodSecurity") {
		text += fmt.Sprintf("; the image %s of spec.bundle may run as root with the runtime's default capabilities, as PodSecurity's level baseline permits: "+
			"set that level for the namespace (label pod-security.kubernetes.io/enforce=baseline), or use the built-in bundle, which needs none of this", image)
	}
	return text
}
