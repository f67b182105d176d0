// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"cmp"
	"fmt"
	"strings"

	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/errlist"
	"botbottle.dev/bottle-operator/internal/httppath"
)

// The fields that hold the rules of a Bottle.
const (
	allowField = "spec.egress.allow"
	rulesField = "spec.egress.rules"
)

// EgressRules returns the valid rules of spec.egress.allow and spec.egress.rules. A host
// with an invalid rule for its requests is opened, and none of its rules is returned: the
// others could let through what the invalid one was written against. The error names the
// invalid rules and their fields.
func EgressRules(b *v1alpha1.Bottle) (egress.Set, error) {
	if b.Spec.Egress == nil {
		return egress.NewSet(), nil
	}
	var allowed []egress.Rule
	var errs, invalid []error
	for _, text := range b.Spec.Egress.Allow {
		rule, err := egress.Parse(string(text))
		if err != nil {
			invalid = append(invalid, err)
			continue
		}
		allowed = append(allowed, rule)
	}
	if len(invalid) > 0 {
		errs = append(errs, fmt.Errorf("%s: %w", allowField, errlist.List(invalid)))
	}
	var rules []egress.HTTPRule
	broken := map[egress.Rule]bool{}
	for i, rule := range b.Spec.Egress.Rules {
		parsed, err := httpRule(rule)
		if err != nil {
			broken[parsed.Host] = true
			errs = append(errs, fmt.Errorf("%s[%d].%w", rulesField, i, err))
		}
		rules = append(rules, parsed)
	}
	set := egress.NewSet(allowed...)
	for _, rule := range rules {
		switch {
		case rule.Host == (egress.Rule{}): // nothing is known to open
		case broken[rule.Host]:
			set = set.WithOpened(rule.Host)
		default:
			set = set.WithHTTP(rule)
		}
	}
	if len(errs) > 0 {
		return set, errlist.List(errs)
	}
	return set, nil
}

// httpRule returns the rule with the defaults filled in. With an error, which begins with
// the name of a field, only the host of the rule is of use; it is the zero Rule if that is
// what is wrong.
func httpRule(rule v1alpha1.HTTPRule) (egress.HTTPRule, error) {
	host, err := egress.Parse(string(rule.Host))
	if err != nil {
		return egress.HTTPRule{}, fmt.Errorf("host: %w", err)
	}
	out := egress.HTTPRule{Host: host}
	for i, m := range rule.HTTP {
		match := egress.HTTPMatch{}
		for _, method := range m.Methods {
			match.Methods = append(match.Methods, string(method))
		}
		for j, text := range m.Paths {
			pattern, err := httppath.ParsePattern(string(text))
			if err != nil {
				return out, fmt.Errorf("http[%d].paths[%d]: %w", i, j, err)
			}
			match.Paths = append(match.Paths, pattern)
		}
		out.HTTP = append(out.HTTP, match)
	}
	if rule.Credential != nil {
		out.Credential = credential(rule.Credential)
	}
	for _, secret := range rule.PassSecrets {
		out.PassSecrets = append(out.PassSecrets, secret.Name)
	}
	return out, out.Check()
}

const authorization = "Authorization"

func credential(c *v1alpha1.Credential) *egress.Credential {
	out := &egress.Credential{
		Secret: c.SecretKeyRef.Name, Key: c.SecretKeyRef.Key,
		Header: cmp.Or(ptr.Deref(c.Header, ""), authorization), BasicUser: ptr.Deref(c.BasicUser, ""),
	}
	switch {
	case c.Prefix != nil:
		out.Prefix = *c.Prefix
	case out.BasicUser == "" && strings.EqualFold(out.Header, authorization):
		out.Prefix = "Bearer "
	}
	return out
}

// RefusedRules returns an error that names the valid rules of spec.egress.allow and
// spec.egress.rules that the platform refuses, with the reasons; nil if there are none.
// Rules concern only the built-in bundle.
func RefusedRules(b *v1alpha1.Bottle, limits egress.Limits) error {
	if b.Spec.Egress == nil || BundleImage(b) != "" {
		return nil
	}
	var opened []v1alpha1.EgressRule
	for _, rule := range b.Spec.Egress.Rules {
		opened = append(opened, rule.Host)
	}
	var errs []error
	for _, one := range []struct {
		field string
		hosts []v1alpha1.EgressRule
	}{{allowField, b.Spec.Egress.Allow}, {rulesField, opened}} {
		if refused := refusedHosts(one.hosts, limits); len(refused) > 0 {
			errs = append(errs, fmt.Errorf("%s: %w", one.field, errlist.List(refused)))
		}
	}
	if len(errs) > 0 {
		return errlist.List(errs)
	}
	return nil
}

func refusedHosts(hosts []v1alpha1.EgressRule, limits egress.Limits) []error {
	var errs []error
	for _, text := range hosts {
		rule, err := egress.Parse(string(text))
		if err != nil {
			continue // EgressRules returns it
		}
		if err := limits.Check(rule); err != nil {
			errs = append(errs, &egress.RuleError{Rule: string(text), Err: err})
		}
	}
	return errs
}
