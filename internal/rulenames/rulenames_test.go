// SPDX-License-Identifier: Apache-2.0

package rulenames_test

import (
	"fmt"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/rulenames"
	"botbottle.dev/bottle-operator/test/builders"
)

func TestNames(t *testing.T) {
	spec := builders.MakeBottle("a").EnvFromSecret("A", "env", "key").EnvFromConfigMap("B", "map", "key").Rules(
		v1alpha1.HTTPRule{Host: "API.example.com", Credential: &v1alpha1.Credential{SecretKeyRef: v1alpha1.SecretKeySelector{Name: "api", Key: "token"}}},
		v1alpha1.HTTPRule{Host: "*.example.com:8443", PassSecrets: []v1alpha1.LocalObjectReference{{Name: "other"}}}).Obj().Spec
	n := rulenames.Of(&spec)
	for host, want := range map[string]bool{"api.example.com:443": true, "*.example.com:8443": true, "API.example.com": false, "evil.test:443": false, "": false} {
		if got := n.Rule(host) == host && host != ""; got != want {
			t.Errorf("rule %q: got known %v, want %v", host, got, want)
		}
	}
	for name, want := range map[string]bool{"api/token": true, "env/key": false, "api/other": false, "": false} {
		if got := n.Credential(name) == name && name != ""; got != want {
			t.Errorf("credential %q: got known %v, want %v", name, got, want)
		}
	}
	for _, tt := range []struct {
		secret, key string
		want        bool
	}{{"api", "token", true}, {"env", "key", true}, {"env", "token", false}, {"map", "key", false}, {"other", "key", false}} {
		if secret, key := n.Secret(tt.secret, tt.key); (secret == tt.secret && key == tt.key) != tt.want {
			t.Errorf("Secret %s, key %s: got %q, %q, want it known: %v", tt.secret, tt.key, secret, key, tt.want)
		}
	}
	if got := (rulenames.Names{}).Rule("api.example.com:443"); got != "" {
		t.Errorf("no names: got %q", got)
	}
}

func TestNote(t *testing.T) {
	b := builders.MakeBottle("a").Env("PLAIN", "x").EnvFromConfigMap("M", "map", "key")
	if got := rulenames.Note(&b.Obj().Spec); got != "" {
		t.Errorf("without Secrets: got %q, want nothing", got)
	}
	b.EnvFromSecret("A", "one", "a").EnvFromSecret("B", "one", "b")
	if got := rulenames.Note(&b.Obj().Spec); !strings.HasPrefix(got, "the guest has values of the Secret one in clear (spec.env): ") {
		t.Errorf("one Secret: got %q", got)
	}
	for i := range 7 {
		b.EnvFromSecret(fmt.Sprintf("V%d", i), fmt.Sprintf("s%d", i), "k")
	}
	if got := rulenames.Note(&b.Obj().Spec); !strings.Contains(got, "the Secrets one, s0, s1, s2, s3 and 3 more in clear") {
		t.Errorf("eight Secrets: got %q", got)
	}
}

func TestMissing(t *testing.T) {
	rule := func(secret string) v1alpha1.HTTPRule {
		return v1alpha1.HTTPRule{Host: "a.example", Credential: &v1alpha1.Credential{SecretKeyRef: v1alpha1.SecretKeySelector{Name: secret, Key: "token"}}}
	}
	spec := builders.MakeBottle("a").EnvFromSecret("A", "env", "key").Rules(rule("one"), rule("two"), rule("two"), v1alpha1.HTTPRule{Host: "b.example"}).Obj().Spec
	has := []v1alpha1.CredentialStatus{{SecretName: "one", Key: "token"}}
	if got := rulenames.Missing(&spec, has); !strings.HasPrefix(got, "the bundle does not have the credentials two/token, and refuses") {
		t.Errorf("one is missing: got %q", got)
	}
	if got := rulenames.Missing(&spec, append(has, v1alpha1.CredentialStatus{SecretName: "two", Key: "token"})); got != "" {
		t.Errorf("none is missing: got %q", got)
	}
}
