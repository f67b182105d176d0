// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"cmp"
	"strings"

	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/needle"
)

// lookAtHost looks for known secrets in the part of an opened host's name that the guest
// chooses: what stands for the asterisk of a rule. It must be called before the name is
// looked up, because a lookup reaches the owner of the domain. If there is a secret, it
// refuses the request, and replaces the host by the rule's, so that no log has the secret.
func (p *proxy) lookAtHost(set egress.Set, rule egress.Rule, t *target) decision {
	domain, ok := strings.CutPrefix(rule.String(), "*")
	if !t.opened || !ok {
		return decision{}
	}
	domain, _, _ = strings.Cut(domain, ":")
	var passed []string
	for _, r := range set.HTTPRules(t.host, t.port) {
		passed = append(passed, r.PassSecrets...)
	}
	chosen := strings.TrimSuffix(canonicalHost(t.host), domain)
	secrets := p.broker.secrets.Load()
	for _, text := range []string{chosen, strings.ReplaceAll(chosen, ".", "")} { // a long value needs several labels
		hit := cmp.Or(secrets.inName(text, passed), longHit(secrets.known().NewScanner(passed...).Write([]byte(text))))
		if hit != nil {
			t.host = "*" + domain
			return deny(egress.Refusal{Host: t.host, Port: t.port, Cause: egress.CauseKnownSecret, Secret: hit.Name, Key: hit.Key, Place: placeURL})
		}
	}
	return decision{}
}

// longHit returns the hit unless its value is so short that it may be there by chance.
func longHit(hit *needle.Hit) *needle.Hit {
	if hit == nil || hit.Short {
		return nil
	}
	return hit
}
