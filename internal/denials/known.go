// SPDX-License-Identifier: Apache-2.0

package denials

import (
	"slices"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/host"
)

// known are the words of a Bottle's own spec that its bundle repeats in its log. Other
// words in their place are the bundle's own, and are not shown.
type known struct {
	rules       map[string]bool // hosts of spec.egress.rules, in their canonical spelling
	credentials map[string]bool // SECRET/KEY
	secrets     map[egress.Credential]bool
}

func knownOf(spec *v1alpha1.BottleSpec) known {
	k := known{rules: map[string]bool{}, credentials: map[string]bool{}, secrets: map[egress.Credential]bool{}}
	if spec == nil {
		return k
	}
	for _, v := range spec.Env {
		if v.ValueFrom != nil && v.ValueFrom.SecretKeyRef != nil {
			k.secrets[egress.Credential{Secret: v.ValueFrom.SecretKeyRef.Name, Key: v.ValueFrom.SecretKeyRef.Key}] = true
		}
	}
	if spec.Egress == nil {
		return k
	}
	for _, rule := range spec.Egress.Rules {
		if host, err := egress.Parse(string(rule.Host)); err == nil {
			k.rules[host.String()] = true
		}
		if c := rule.Credential; c != nil {
			one := egress.Credential{Secret: c.SecretKeyRef.Name, Key: c.SecretKeyRef.Key}
			k.secrets[one], k.credentials[one.String()] = true, true
		}
	}
	return k
}

// check returns the decision without the words that the spec does not have.
func (k known) check(d host.Decision) host.Decision {
	if !k.rules[d.Rule] {
		d.Rule = ""
	}
	if !k.credentials[d.Credential] {
		d.Credential = ""
	}
	if !k.secrets[egress.Credential{Secret: d.Secret, Key: d.Key}] {
		d.Secret, d.Key = "", ""
	}
	if !slices.Contains(egress.Places, d.Place) {
		d.Place = ""
	}
	return d
}
