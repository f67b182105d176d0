// SPDX-License-Identifier: Apache-2.0

package egress_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/egress"
)

func set(t *testing.T, rules ...string) egress.Set {
	t.Helper()
	s, err := egress.ParseSet(rules)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func texts(s egress.Set) []string {
	out := []string{}
	for _, r := range s.Rules() {
		out = append(out, r.String())
	}
	slices.Sort(out)
	return out
}

func TestIntersect(t *testing.T) {
	tests := map[string]struct{ one, other, want []string }{
		"the same":                   {[]string{"a.example.com"}, []string{"a.example.com"}, []string{"a.example.com:443"}},
		"nothing in common":          {[]string{"a.example.com"}, []string{"b.example.com"}, []string{}},
		"one of them empty":          {[]string{"a.example.com", "10.0.0.0/8"}, nil, []string{}},
		"another port":               {[]string{"a.example.com:80"}, []string{"a.example.com"}, []string{}},
		"a name below a wildcard":    {[]string{"*.example.com"}, []string{"a.example.com", "example.com"}, []string{"a.example.com:443"}},
		"a wildcard below another":   {[]string{"*.example.com"}, []string{"*.sub.example.com"}, []string{"*.sub.example.com:443"}},
		"the same wildcard":          {[]string{"*.example.com"}, []string{"*.example.com"}, []string{"*.example.com:443"}},
		"a suffix that is no parent": {[]string{"*.example.com"}, []string{"a.badexample.com"}, []string{}},
		"networks":                   {[]string{"10.0.0.0/8", "192.0.2.1"}, []string{"10.1.0.0/16", "192.0.2.0/24", "10.2.0.0/16:80"}, []string{"10.1.0.0/16:443", "192.0.2.1:443"}},
		"a network and a name":       {[]string{"0.0.0.0/0"}, []string{"a.example.com"}, []string{}},
		"IPv6":                       {[]string{"[2001:db8::/32]:443"}, []string{"[2001:db8:1::1]:443"}, []string{"[2001:db8:1::1]:443"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for _, got := range []egress.Set{set(t, tt.one...).Intersect(set(t, tt.other...)), set(t, tt.other...).Intersect(set(t, tt.one...))} {
				if d := cmp.Diff(tt.want, texts(got)); d != "" {
					t.Errorf("intersection (-want +got):\n%s", d)
				}
			}
		})
	}
}
