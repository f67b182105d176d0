// SPDX-License-Identifier: Apache-2.0

// Package bundlespec renders the bundle that a Bottle is to have on its node: the container,
// and the egress rules of the built-in one. It changes nothing and runs nothing.
package bundlespec

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/envsource"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/guestenv"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/machinesize"
)

// Renderer renders the bundles of one node.
type Renderer struct {
	// References knows the Secrets and ConfigMaps that Bottles name.
	References envsource.Reader
	// AllowedImages are globs (path.Match) for spec.bundle.image.
	AllowedImages []string
}

// Place is what the node adds to a bundle.
type Place struct {
	Owner host.Owner
	IP    netip.Addr
	// RulesDir and SecretsDir are the folders of a built-in bundle.
	RulesDir, SecretsDir string
	// Refused names the rules that the platform refuses to a Bottle without a machine.
	Refused error
}

// Of returns the bundle to run, and the rules of the built-in one. Its errors are outcomes
// of a step.
func (r Renderer) Of(ctx context.Context, b *v1alpha1.Bottle, at Place) (spec host.BundleSpec, rules egress.Set, err error) {
	spec = host.BundleSpec{Owner: at.Owner, IP: at.IP, Limits: machinesize.BundleOf(b.Status.Resources)}
	if bundle := b.Spec.Bundle; bundle != nil {
		spec.Image = ptr.Deref(bundle.Image, "")
		env, err := envsource.Resolve(ctx, r.References, b, bundle.Env)
		if err != nil {
			return spec, rules, err
		}
		for _, v := range env {
			if err := guestenv.Check(v); err != nil {
				return spec, rules, InvalidEnv(err)
			}
			spec.Env = append(spec.Env, v.Name+"="+v.Value)
		}
	}
	if spec.Image != "" {
		return spec, rules, r.checkImage(spec.Image)
	}
	spec.RulesDir, spec.SecretsDir = at.RulesDir, at.SecretsDir
	rules, err = desired.EgressRules(b)
	if err != nil {
		return spec, rules, &flow.Terminal{Reason: v1alpha1.ReasonEgressRuleInvalid, Err: err}
	}
	if at.Refused != nil {
		return spec, rules, &flow.Terminal{Reason: v1alpha1.ReasonEgressRuleRefused, Err: at.Refused}
	}
	return spec, rules, nil
}

func (r Renderer) checkImage(image string) error {
	if desired.BundleImageAllowed(image, r.AllowedImages) {
		return nil
	}
	return &flow.Terminal{Reason: v1alpha1.ReasonBundleImageNotAllowed,
		Err: fmt.Errorf("spec.bundle.image %s is not allowed on this node: choose another image, or ask an administrator to add it to the chart's value bundle.allowedImages (the agent's flag --allowed-bundle-images)", image)}
}

// InvalidEnv turns an error about a variable that cannot be passed to a process into a
// wait. The wait ends when the Secret, the ConfigMap or the spec that the value comes from
// changes.
func InvalidEnv(err error) error {
	var v *guestenv.VarError
	if errors.As(err, &v) {
		return &flow.Waiting{Reason: v1alpha1.ReasonEnvInvalid, Message: err.Error()}
	}
	return fmt.Errorf("smolfile: %w", err)
}
