// SPDX-License-Identifier: Apache-2.0

package desired_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/test/builders"
)

func rule(host v1alpha1.EgressRule, paths ...v1alpha1.HTTPPath) v1alpha1.HTTPRule {
	r := v1alpha1.HTTPRule{Host: host}
	if len(paths) > 0 {
		r.HTTP = []v1alpha1.HTTPMatch{{Paths: paths}}
	}
	return r
}

func TestCredentialDefaults(t *testing.T) {
	token := func(change func(*v1alpha1.Credential)) *v1alpha1.Credential {
		c := &v1alpha1.Credential{SecretKeyRef: v1alpha1.SecretKeySelector{Name: "s", Key: "k"}}
		change(c)
		return c
	}
	for name, tt := range map[string]struct {
		given *v1alpha1.Credential
		want  egress.Credential
	}{
		"nothing":        {token(func(*v1alpha1.Credential) {}), egress.Credential{Header: "Authorization", Prefix: "Bearer "}},
		"another header": {token(func(c *v1alpha1.Credential) { c.Header = ptr.To("x-api-key") }), egress.Credential{Header: "x-api-key"}},
		"the default in other letters": {token(func(c *v1alpha1.Credential) { c.Header = ptr.To("authorization") }),
			egress.Credential{Header: "authorization", Prefix: "Bearer "}},
		"no prefix":    {token(func(c *v1alpha1.Credential) { c.Prefix = ptr.To("") }), egress.Credential{Header: "Authorization"}},
		"a prefix":     {token(func(c *v1alpha1.Credential) { c.Prefix = ptr.To("token ") }), egress.Credential{Header: "Authorization", Prefix: "token "}},
		"a basic user": {token(func(c *v1alpha1.Credential) { c.BasicUser = ptr.To("x-access-token") }), egress.Credential{Header: "Authorization", BasicUser: "x-access-token"}},
	} {
		r := rule("api.example.com")
		r.Credential = tt.given
		set, err := desired.EgressRules(builders.MakeBottle("a").Rules(r).Obj())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		tt.want.Secret, tt.want.Key = "s", "k"
		if diff := cmp.Diff(tt.want, *set.HTTPRules("api.example.com", 443)[0].Credential); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// The other rules of a host with an invalid one decide on nothing: the first rule that
// matches decides, and nobody knows what the invalid one would have matched.
func TestAnInvalidRuleClosesItsHost(t *testing.T) {
	b := builders.MakeBottle("a").Allow("api.example.com", "https://x").Rules(rule("api.example.com", "/a/../b"), rule("api.example.com"), rule("127.1"), rule("fine.example.com")).Obj()
	set, err := desired.EgressRules(b)
	for _, want := range []string{`spec.egress.allow: egress rule "https://x"`, "spec.egress.rules[0].http[0].paths[0]: ", "spec.egress.rules[2].host: egress rule"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error: got %v, want %s in it", err, want)
		}
	}
	if !set.Opens("api.example.com", 443) || len(set.HTTPRules("api.example.com", 443)) != 0 {
		t.Error("api.example.com: want it opened, without rules")
	}
	if len(set.HTTPRules("fine.example.com", 443)) != 1 {
		t.Error("fine.example.com: want its rule")
	}
}

func TestRefusedRulesOfBothFields(t *testing.T) {
	ceiling, err := egress.ParseSet([]string{"*.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	b := builders.MakeBottle("a").Allow("a.example.com", "evil.test").Rules(rule("b.example.com"), rule("worse.test")).Obj()
	refused := desired.RefusedRules(b, egress.Limits{Ceiling: &ceiling})
	if refused == nil {
		t.Fatal("got nil, want the rules that the ceiling refuses")
	}
	for text, want := range map[string]bool{
		`spec.egress.allow: egress rule "evil.test"`: true, `spec.egress.rules: egress rule "worse.test"`: true, "a.example.com": false, "b.example.com": false,
	} {
		if got := strings.Contains(refused.Error(), text); got != want {
			t.Errorf("%s in %v: got %v, want %v", text, refused, got, want)
		}
	}
}
