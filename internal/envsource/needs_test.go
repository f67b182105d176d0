// SPDX-License-Identifier: Apache-2.0

package envsource_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/envsource"
	"botbottle.dev/bottle-operator/internal/namedwatch"
	"botbottle.dev/bottle-operator/test/builders"
)

// The keys of credentials are needed. Secrets that may pass are not: their values are known
// if anything else names them, and otherwise nothing looks for them.
func TestNeedsOfCredentials(t *testing.T) {
	credential := func(secret, key string) *v1alpha1.Credential {
		return &v1alpha1.Credential{SecretKeyRef: v1alpha1.SecretKeySelector{Name: secret, Key: key}}
	}
	b := builders.MakeBottle("a").Namespace("ns").EnvFromSecret("A", "shared", "env-key").Rules(
		v1alpha1.HTTPRule{Host: "a.example.com", Credential: credential("shared", "api-key")},
		v1alpha1.HTTPRule{Host: "b.example.com", Credential: credential("github", "token"), PassSecrets: []v1alpha1.LocalObjectReference{{Name: "other"}}},
		v1alpha1.HTTPRule{Host: "c.example.com"}).Obj()
	secret := func(name string, keys ...string) envsource.Need {
		return envsource.Need{Ref: namedwatch.Ref{Kind: namedwatch.Secret, Namespace: "ns", Name: name}, Keys: keys}
	}
	if diff := cmp.Diff([]envsource.Need{secret("github", "token"), secret("shared", "api-key", "env-key")}, envsource.Needs(b)); diff != "" {
		t.Errorf("needs (-want +got):\n%s", diff)
	}
}
