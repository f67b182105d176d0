// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/api/apienv"
	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/kstatus"
)

// Accepted values are returned byte for byte.
func TestAccepted(t *testing.T) {
	c := apienv.Client(t, apienv.Start(t))
	ns := apienv.Namespace(t, c)
	tests := map[string]*builders.Bottle{
		"slug only":              builders.MakeBottle("slug-only"),
		"slug of one character":  builders.MakeBottle("short").Slug("a"),
		"slug of 40 characters":  builders.MakeBottle("long").Slug(strings.Repeat("a", 38) + "-9"),
		"slug of digits":         builders.MakeBottle("digits").Slug("2-0-1"),
		"no value":               withEnv("no-value", v1alpha1.EnvVar{Name: "A"}),
		"empty value":            builders.MakeBottle("empty").Env("A", ""),
		"emoji":                  builders.MakeBottle("emoji").Env("A", "🍾 bottle 👩‍🚀"),
		"quotes and backslashes": builders.MakeBottle("quotes").Env("A", `"'\'" ''' """ \u0000 \n`),
		"TOML syntax":            builders.MakeBottle("toml").Env("A", "\"]\n[network]\nallow_hosts = [\"*\"]\n#"),
		"control characters":     builders.MakeBottle("control").Env("A", "\x01\x02\x07\b\x1b[0m\x1f\x7f."),
		"white space inside":     builders.MakeBottle("inside").Env("A", " \t\r\n\u00a0\u3000."),
		"zero-width at the end":  builders.MakeBottle("zero-width").Env("A", "a\u200b"),
		"value of 32768":         builders.MakeBottle("size").Env("A", strings.Repeat("x", 32768)),
		"32768 wide characters":  builders.MakeBottle("wide").Env("A", strings.Repeat("🍾", 32768)),
		"128 entries":            manyEnv("many", 128),
		"from a secret":          builders.MakeBottle("secret").EnvFromSecret("A", "s", "k").EnvFromConfigMap("B", "c", "k"),
		"image reference":        builders.MakeBottle("ref").Image("ghcr.io:443/org/agent:1.2@sha256:" + strings.Repeat("a", 64)),
		"image file":             builders.MakeBottle("file").Image("file:guest_1.2-a.tar"),
		"artifact":               builders.MakeBottle("artifact").ArtifactPath("file:packed.smolmachine"),
		"minimum sizes":          builders.MakeBottle("least").CPUs(1).Memory("64Mi"),
		"maximum sizes":          builders.MakeBottle("greatest").CPUs(16).Memory("1Ti"),
		"memory in another unit": builders.MakeBottle("unit").Memory("1500M"),
		"ports":                  builders.MakeBottle("ports").BundlePorts(1, 8888, 65535),
		"rules": builders.MakeBottle("rules").Allow("api.example.com", "*.example.com:8443", "203.0.113.7", "203.0.113.7:80",
			"10.0.0.0/8", "10.0.0.0/8:22", "2001:db8::1", "2001:db8::/32", "[2001:db8::1]:443", "[2001:db8::/32]:443", "example.com."),
		"stopped": builders.MakeBottle("stopped").Stopped(),
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := tc.Namespace(ns).Obj()
			if err := c.Create(t.Context(), b); err != nil {
				t.Fatalf("got %v, want it accepted", err)
			}
			want := tc.Obj().Spec
			if want.DesiredState == "" {
				want.DesiredState = v1alpha1.DesiredStateRunning
			}
			want.RestartPolicy, want.Stdin = v1alpha1.RestartAlways, v1alpha1.StdinClosed
			got := &v1alpha1.Bottle{}
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(b), got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got.Spec); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
		})
	}
}

// Before the manager has seen a Bottle, tools that wait for objects do not take it for ready.
func TestANewBottleIsInProgress(t *testing.T) {
	c := apienv.Client(t, apienv.Start(t))
	b := bottleIn(t, c, apienv.Namespace(t, c), "new")
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Bottle"))
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(b), u); err != nil {
		t.Fatal(err)
	}
	if got, err := status.Compute(u); err != nil || got.Status != status.InProgressStatus {
		t.Errorf("kstatus: got %v, %v, want InProgress", got, err)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(b), b); err != nil {
		t.Fatal(err)
	}
	kstatus.Require(t, b)
}
