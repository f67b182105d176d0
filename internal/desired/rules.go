// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"slices"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// OpenRules returns the rules for hosts whose connections the bundle opens. Only the
// built-in bundle has any.
func OpenRules(b *v1alpha1.Bottle) []v1alpha1.HTTPRule {
	if b.Spec.Egress == nil || BundleImage(b) != "" {
		return nil
	}
	return b.Spec.Egress.Rules
}

// Placeholders returns the names of the variables that stand for credentials in the
// guest, sorted, each once.
func Placeholders(b *v1alpha1.Bottle) []string {
	var names []string
	for _, rule := range OpenRules(b) {
		if c := rule.Credential; c != nil && c.Env != nil {
			names = append(names, *c.Env)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
