// SPDX-License-Identifier: Apache-2.0

// Package desired reads from a Bottle what its user and the manager request,
// with the defaults filled in. It is pure. It knows neither the node nor the
// state of the Bottle there.
package desired

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/errlist"
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

// EgressRules returns the valid rules of spec.egress.allow. The error names the
// invalid ones.
func EgressRules(b *v1alpha1.Bottle) (egress.Set, error) {
	var rules []egress.Rule
	var errs []error
	if b.Spec.Egress != nil {
		for _, text := range b.Spec.Egress.Allow {
			rule, err := egress.Parse(string(text))
			if err != nil {
				errs = append(errs, err)
				continue
			}
			rules = append(rules, rule)
		}
	}
	if len(errs) > 0 {
		return egress.NewSet(rules...), errlist.List(errs)
	}
	return egress.NewSet(rules...), nil
}

// RefusedRules returns an error that names the valid rules of spec.egress.allow
// that the platform refuses, with the reasons; nil if there are none. Rules concern only
// the built-in bundle.
func RefusedRules(b *v1alpha1.Bottle, limits egress.Limits) error {
	if b.Spec.Egress == nil || BundleImage(b) != "" {
		return nil
	}
	var errs []error
	for _, text := range b.Spec.Egress.Allow {
		rule, err := egress.Parse(string(text))
		if err != nil {
			continue // EgressRules returns it
		}
		if err := limits.Check(rule); err != nil {
			errs = append(errs, &egress.RuleError{Rule: string(text), Err: err})
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("spec.egress.allow: %w", errlist.List(errs))
	}
	return nil
}

// CAPath returns the path, in the bundle's container, of the certificates that
// the guest must trust; "" means none.
func CAPath(b *v1alpha1.Bottle) string {
	if b.Spec.Bundle == nil {
		return ""
	}
	return ptr.Deref(b.Spec.Bundle.CAPath, "")
}
