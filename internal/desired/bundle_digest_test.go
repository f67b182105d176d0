// SPDX-License-Identifier: Apache-2.0

package desired_test

import (
	"testing"

	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/desired"
)

func TestBundleDigest(t *testing.T) {
	digest := func(bundle *v1alpha1.Bundle) string {
		b := &v1alpha1.Bottle{}
		b.Spec.Bundle = bundle
		return desired.BundleDigest(b)
	}
	none := digest(nil)
	if got := digest(&v1alpha1.Bundle{Ports: []int32{8888}}); got != none {
		t.Error("the default port, written out: got another digest, want the same")
	}
	if got := digest(&v1alpha1.Bundle{CAPath: ptr.To("/ca.pem")}); got != none {
		t.Error("a path in the container: got another digest, want the same, because it is no part of the Pod")
	}
	seen := map[string]string{none: "none"}
	for name, bundle := range map[string]*v1alpha1.Bundle{
		"image": {Image: ptr.To("example.com/bundle:1")},
		"ports": {Ports: []int32{8888, 9418}},
		"value": {Env: []v1alpha1.EnvVar{{Name: "A", Value: ptr.To("1")}}},
		"other": {Env: []v1alpha1.EnvVar{{Name: "A", Value: ptr.To("2")}}},
		"reference": {Env: []v1alpha1.EnvVar{{Name: "A", ValueFrom: &v1alpha1.EnvVarSource{
			SecretKeyRef: &v1alpha1.KeySelector{Name: "s", Key: "k"}}}}},
	} {
		got := digest(bundle)
		if other, taken := seen[got]; taken {
			t.Errorf("%s: got the digest of %s, want another one", name, other)
		}
		seen[got] = name
	}
}
