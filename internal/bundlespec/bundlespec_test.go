// SPDX-License-Identifier: Apache-2.0

package bundlespec_test

import (
	"errors"
	"testing"

	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/bundlespec"
	"botbottle.dev/bottle-operator/internal/flow"
)

func TestOnlyAllowedImages(t *testing.T) {
	r := bundlespec.Renderer{AllowedImages: []string{"example.com/org/*"}}
	for image, allowed := range map[string]bool{"example.com/org/bundle:1": true, "example.com/other/bundle:1": false, "example.com/org/deep/bundle": false} {
		b := &v1alpha1.Bottle{}
		b.Spec.Bundle = &v1alpha1.Bundle{Image: ptr.To(image)}
		spec, _, err := r.Of(t.Context(), b, bundlespec.Place{RulesDir: "/rules", SecretsDir: "/secrets"})
		var refused *flow.Terminal
		if got := !errors.As(err, &refused); got != allowed {
			t.Errorf("%s: got allowed %t (%v), want %t", image, got, err, allowed)
		}
		if spec.RulesDir != "" || spec.SecretsDir != "" {
			t.Errorf("%s: got folders %q and %q, want none for another image than the built-in one", image, spec.RulesDir, spec.SecretsDir)
		}
	}
}

func TestRefusedRules(t *testing.T) {
	_, _, err := bundlespec.Renderer{}.Of(t.Context(), &v1alpha1.Bottle{}, bundlespec.Place{Refused: errors.New("closed")})
	var refused *flow.Terminal
	if !errors.As(err, &refused) || refused.Reason != v1alpha1.ReasonEgressRuleRefused {
		t.Errorf("got %v, want the reason %s", err, v1alpha1.ReasonEgressRuleRefused)
	}
}
