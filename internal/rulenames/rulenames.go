// SPDX-License-Identifier: Apache-2.0

// Package rulenames knows the names in a Bottle's spec that its bundle repeats in its log,
// and which Secrets the spec gives to the guest. It is pure, and sees no value of a Secret.
package rulenames

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/egress"
)

// Names are the names in a Bottle's own spec. Other words in their place in a log are the
// bundle's own, and must not be shown. The zero value has none.
type Names struct {
	rules       map[string]bool // hosts of spec.egress.rules, in their canonical spelling
	credentials map[string]bool // SECRET/KEY
	secrets     map[secretKey]bool
}

type secretKey struct{ secret, key string }

// Of returns the names in a spec.
func Of(spec *v1alpha1.BottleSpec) Names {
	n := Names{rules: map[string]bool{}, credentials: map[string]bool{}, secrets: map[secretKey]bool{}}
	for _, v := range spec.Env {
		if v.ValueFrom != nil && v.ValueFrom.SecretKeyRef != nil {
			n.secrets[secretKey{v.ValueFrom.SecretKeyRef.Name, v.ValueFrom.SecretKeyRef.Key}] = true
		}
	}
	if spec.Egress == nil {
		return n
	}
	for _, rule := range spec.Egress.Rules {
		if host, err := egress.Parse(string(rule.Host)); err == nil {
			n.rules[host.String()] = true
		}
		if c := rule.Credential; c != nil {
			n.secrets[secretKey{c.SecretKeyRef.Name, c.SecretKeyRef.Key}] = true
			n.credentials[c.SecretKeyRef.Name+"/"+c.SecretKeyRef.Key] = true
		}
	}
	return n
}

// Rule returns the host of a rule if the spec has such a rule, and "" otherwise.
func (n Names) Rule(host string) string {
	if n.rules[host] {
		return host
	}
	return ""
}

// Credential returns SECRET/KEY if it is a credential of a rule, and "" otherwise.
func (n Names) Credential(name string) string {
	if n.credentials[name] {
		return name
	}
	return ""
}

// Secret returns the names of a Secret and a key in it if spec.env or a credential names
// them, and "" twice otherwise.
func (n Names) Secret(secret, key string) (string, string) {
	if n.secrets[secretKey{secret, key}] {
		return secret, key
	}
	return "", ""
}

// InGuest returns the names of the Secrets whose values spec.env gives to the guest in
// clear, sorted.
func InGuest(spec *v1alpha1.BottleSpec) []string {
	names := map[string]bool{}
	for _, v := range spec.Env {
		if v.ValueFrom != nil && v.ValueFrom.SecretKeyRef != nil {
			names[v.ValueFrom.SecretKeyRef.Name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// shown is how many Secrets or credentials a note names.
const shown = 5

// Note says which Secrets are in the guest in clear, and what would keep them out; "" if
// there are none.
func Note(spec *v1alpha1.BottleSpec) string {
	names := InGuest(spec)
	if len(names) == 0 {
		return ""
	}
	list := some(names)
	noun := "the Secret "
	if len(names) > 1 {
		noun = "the Secrets "
	}
	return "the guest has values of " + noun + list + " in clear (spec.env): where requests need them, a credential of a rule in spec.egress.rules keeps them out of the guest"
}

// Missing says which credentials of the rules the bundle does not have, given the ones that
// it has, and what to do; "" if there are none.
func Missing(spec *v1alpha1.BottleSpec, has []v1alpha1.CredentialStatus) string {
	missing := Of(spec).credentials
	for _, c := range has {
		delete(missing, c.SecretName+"/"+c.Key)
	}
	if len(missing) == 0 {
		return ""
	}
	return "the bundle does not have the credentials " + some(slices.Sorted(maps.Keys(missing))) +
		", and refuses the requests that would get them: see that the Secret and the key (SECRET/KEY) exist, and that the value is not empty"
}

// some returns a list of the first names.
func some(names []string) string {
	list := strings.Join(names[:min(len(names), shown)], ", ")
	if more := len(names) - shown; more > 0 {
		list += fmt.Sprintf(" and %d more", more)
	}
	return list
}
