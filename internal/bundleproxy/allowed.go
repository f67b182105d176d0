// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"strings"

	"botbottle.dev/bottle-operator/internal/egress"
)

// maxAllowed is the length in bytes of the longest list of what rules allow.
const maxAllowed = 1 << 10

// allowedRequests says which requests the rules of a host let through, in at most
// maxAllowed bytes.
func allowedRequests(rules []egress.HTTPRule) string {
	if len(rules) == 0 {
		return "no rule of spec.egress.rules lets any request to this host through now"
	}
	var b strings.Builder
	b.WriteString("the rules for this host in spec.egress.rules of the Bottle allow:")
	for _, r := range rules {
		for _, m := range r.HTTP {
			line := "\n  " + requests(m)
			if b.Len()+len(line) > maxAllowed-len(andMore) {
				b.WriteString(andMore)
				return b.String()
			}
			b.WriteString(line)
		}
	}
	return b.String()
}

const andMore = "\n  and more"

// requests describes requests: their methods and their paths.
func requests(m egress.HTTPMatch) string {
	methods, paths := "any method", "any path"
	if len(m.Methods) > 0 {
		methods = strings.Join(m.Methods, ", ")
	}
	if len(m.Paths) > 0 {
		var texts []string
		for _, p := range m.Paths {
			texts = append(texts, p.String())
		}
		paths = strings.Join(texts, ", ")
	}
	return methods + " " + paths
}
