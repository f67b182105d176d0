// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"botbottle.dev/bottle-operator/test/api/apienv"
)

// Manifests that the Go types cannot express are refused too, in the form in which
// kubectl sends them.
func TestRefusedManifests(t *testing.T) {
	c := client.WithFieldValidation(apienv.Client(t, apienv.Start(t)), "Strict")
	ns := apienv.Namespace(t, c)
	tests := map[string]struct {
		spec string
		want []string
	}{
		"no spec":              {`null`, []string{"spec", "Required value"}},
		"no slug":              {`{}`, []string{"spec.slug: Required value"}},
		"slug empty":           {`{slug: ""}`, []string{"spec.slug", "should be at least 1 chars long"}},
		"slug a number":        {`{slug: 1}`, []string{"spec.slug", "must be of type string"}},
		"unknown field":        {`{slug: a, sulg: b}`, []string{`unknown field "spec.sulg"`}},
		"unknown field of env": {`{slug: a, env: [{name: A, valeu: b}]}`, []string{`unknown field "spec.env[0].valeu"`}},
		"unknown field of affinity": {`{slug: a, scheduling: {affinity: {nodeAfinity: {}}}}`,
			[]string{`unknown field "spec.scheduling.affinity.nodeAfinity"`}},
		"duplicate key":       {"{slug: a, slug: b}", []string{`key "slug" already set`}},
		"env value a number":  {`{slug: a, env: [{name: A, value: 1}]}`, []string{"spec.env[0].value", "must be of type string"}},
		"env value a bool":    {`{slug: a, env: [{name: A, value: true}]}`, []string{"spec.env[0].value", "must be of type string"}},
		"no ports":            {`{slug: a, bundle: {ports: []}}`, []string{"spec.bundle.ports", "should have at least 1 items"}},
		"ports twice":         {`{slug: a, bundle: {ports: [1, 1]}}`, []string{"spec.bundle.ports[1]", "Duplicate value"}},
		"no command":          {`{slug: a, command: []}`, []string{"spec.command", "should have at least 1 items"}},
		"memory no quantity":  {`{slug: a, machine: {memory: much}}`, []string{"spec.machine.memory"}},
		"memory too small":    {`{slug: a, machine: {memory: 67108863}}`, []string{"spec.machine.memory", "memory must be at least 64Mi"}},
		"storage zero":        {`{slug: a, machine: {storage: 0}}`, []string{"spec.machine.storage", "storage must be greater than 0"}},
		"cpus a fraction":     {`{slug: a, machine: {cpus: 1.5}}`, []string{"spec.machine.cpus", "must be of type integer"}},
		"deadline of 0":       {`{slug: a, lifetime: {activeDeadlineSeconds: 0}}`, []string{"spec.lifetime.activeDeadlineSeconds", "greater than or equal to 1"}},
		"secret key no name":  {`{slug: a, env: [{name: A, valueFrom: {secretKeyRef: {key: k}}}]}`, []string{"spec.env[0].valueFrom.secretKeyRef.name", "Required value"}},
		"pull secret no name": {`{slug: a, imagePullSecrets: [{}]}`, []string{"spec.imagePullSecrets[0].name", "Required value"}},
		"two value sources":   {`{slug: a, env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}, configMapKeyRef: {name: s, key: k}}}]}`, []string{"spec.env[0].valueFrom", "exactly one of"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := createManifest(t, c, "apiVersion: botbottle.dev/v1alpha1\nkind: Bottle\nmetadata: {name: a, namespace: "+ns+"}\nspec: "+tc.spec)
			if err == nil {
				t.Fatal("got it accepted, want it refused")
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("got message %q, want %q in it", err, w)
				}
			}
		})
	}
}

// createManifest sends YAML to the API server for the checks that kubectl leaves
// to it. It is a dry run: nothing is stored.
func createManifest(t *testing.T, c client.Client, manifest string) error {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.UnmarshalStrict([]byte(manifest), &u.Object); err != nil {
		return err
	}
	err := c.Create(t.Context(), u, client.DryRunAll)
	if err != nil && !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) {
		t.Fatalf("got %v, want a refusal", err)
	}
	return err
}

func TestSlugCannotBeChanged(t *testing.T) {
	c := apienv.Client(t, apienv.Start(t))
	ns := apienv.Namespace(t, c)
	b := bottleIn(t, c, ns, "a")
	b.Spec.Slug = "b"
	wantRefused(t, c.Update(t.Context(), b), "spec.slug:", "slug cannot be changed")
}
