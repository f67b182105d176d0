// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/api/apienv"
	"botbottle.dev/bottle-operator/test/builders"
)

func withEnv(name string, env ...v1alpha1.EnvVar) *builders.Bottle {
	b := builders.MakeBottle(name)
	b.Spec.Env = env
	return b
}

func manyEnv(name string, n int) *builders.Bottle {
	b := builders.MakeBottle(name)
	for i := range n {
		b.Env(fmt.Sprintf("V%d", i), "x")
	}
	return b
}

func withSpec(change func(*v1alpha1.BottleSpec)) *builders.Bottle {
	b := builders.MakeBottle("a")
	change(&b.Spec)
	return b
}

// Every refusal names the field and explains the rule.
func TestRefused(t *testing.T) {
	c := apienv.Client(t, apienv.Start(t))
	ns := apienv.Namespace(t, c)
	ptr := func(s string) *string { return &s }
	type refusal struct {
		bottle      *builders.Bottle
		field, rule string
	}
	slug := func(s, rule string) refusal { return refusal{builders.MakeBottle("a").Slug(s), "spec.slug", rule} }
	slugRule := "slug must consist of lower-case letters, digits and single hyphens between them"
	envName := func(s string) refusal {
		return refusal{builders.MakeBottle("a").Env(s, "x"), "spec.env[0].name", "name must be letters, digits and '_', not starting with a digit"}
	}
	image := func(s, rule string) refusal { return refusal{builders.MakeBottle("a").Image(s), "spec.image", rule} }
	fileRule := "file: must be followed by a name"
	rule := func(s string) refusal {
		return refusal{builders.MakeBottle("a").Allow(v1alpha1.EgressRule(s)), "spec.egress.allow[0]", "a rule must be HOST[:PORT]"}
	}
	tests := map[string]refusal{
		"slug with two hyphens":     slug("a--b", slugRule),
		"slug with a hyphen before": slug("-a", slugRule),
		"slug with a hyphen after":  slug("a-", slugRule),
		"slug with a capital":       slug("aB", slugRule),
		"slug with a dot":           slug("a.b", slugRule),
		"slug with a newline":       slug("a\n", slugRule),
		"slug of 41 characters":     slug(strings.Repeat("a", 41), "may not be more than 40"),
		"env name with =":           envName("A=B"),
		"env name with a space":     envName("A B"),
		"env name with a digit":     envName("1A"),
		"env name with a newline":   envName("A\n"),
		"env name empty":            {withEnv("a", v1alpha1.EnvVar{}), "spec.env[0].name", "Required value"},
		"env names twice":           {builders.MakeBottle("a").Env("A", "1").Env("A", "2"), "spec.env[1]", "Duplicate value"},
		"env of 129 entries":        {manyEnv("a", 129), "spec.env", "must have at most 128 items"},
		"env value and source":      {builders.MakeBottle("a").EnvFromSecret("A", "s", "k"), "spec.env[0]", "value and valueFrom cannot both be set"},
		"env source empty":          {withEnv("a", v1alpha1.EnvVar{Name: "A", ValueFrom: &v1alpha1.EnvVarSource{}}), "spec.env[0].valueFrom", "exactly one of secretKeyRef and configMapKeyRef must be set"},
		"env value with a NUL":      {builders.MakeBottle("a").Env("A", "a\x00b"), "spec.env[0].value", "value must not contain a NUL character"},
		"env value too long":        {builders.MakeBottle("a").Env("A", strings.Repeat("x", 32769)), "spec.env[0].value", "may not be more than 32768"},
		"image and artifact":        {builders.MakeBottle("a").Image("file:a.tar").ArtifactPath("file:b"), "spec", "image and artifact cannot both be set"},
		"image with a slash":        image("file:a/b.tar", fileRule),
		"image above the directory": image("file:../b.tar", fileRule),
		"image with two dots":       image("file:a..tar", "the name after file: must not contain '..'"),
		"image hidden":              image("file:.a.tar", fileRule),
		"image without a name":      image("file:", fileRule),
		"image with a space":        image("a b", "image must be an OCI reference"),
		"image like an option":      image("--a", "image must be an OCI reference"),
		"artifact above directory":  {builders.MakeBottle("a").ArtifactPath("file:../a"), "spec.artifact.path", "path must be file:NAME"},
		"artifact empty":            {withSpec(func(s *v1alpha1.BottleSpec) { s.Artifact = &v1alpha1.Artifact{} }), "spec.artifact", "exactly one of path and reference must be set"},
		"artifact sum": {withSpec(func(s *v1alpha1.BottleSpec) {
			s.Artifact = &v1alpha1.Artifact{Path: ptr("file:a"), SHA256: ptr(strings.Repeat("G", 64))}
		}), "spec.artifact.sha256", "64 lower-case hexadecimal digits"},
		"rule with a scheme":         rule("https://example.com"),
		"rule with a path":           rule("example.com/a"),
		"rule with an inner star":    rule("a.*.example.com"),
		"rule of a star":             rule("*"),
		"rule with a space":          rule("a b"),
		"rule with a named port":     rule("example.com:https"),
		"rule with a newline":        rule("example.com\n"),
		"rule empty":                 {builders.MakeBottle("a").Allow(""), "spec.egress.allow[0]", "at least 1 chars long"},
		"rule with port 0":           {builders.MakeBottle("a").Allow("example.com:0"), "spec.egress.allow[0]", "port must be 1 to 65535"},
		"rule with port 70000":       {builders.MakeBottle("a").Allow("example.com:70000"), "spec.egress.allow[0]", "port must be 1 to 65535"},
		"rules twice":                {builders.MakeBottle("a").Allow("a.example", "a.example"), "spec.egress.allow[1]", "Duplicate value"},
		"port 0":                     {builders.MakeBottle("a").BundlePorts(0), "spec.bundle.ports[0]", "should be greater than or equal to 1"},
		"port 70000":                 {builders.MakeBottle("a").BundlePorts(8888, 70000), "spec.bundle.ports[1]", "should be less than or equal to 65535"},
		"cpus 0":                     {builders.MakeBottle("a").CPUs(0), "spec.machine.cpus", "should be greater than or equal to 1"},
		"cpus 17":                    {builders.MakeBottle("a").CPUs(17), "spec.machine.cpus", "should be less than or equal to 16"},
		"memory below 64Mi":          {builders.MakeBottle("a").Memory("63Mi"), "spec.machine.memory", "memory must be at least 64Mi"},
		"memory negative":            {builders.MakeBottle("a").Memory("-1Gi"), "spec.machine.memory", "memory must be at least 64Mi"},
		"desired state":              {withSpec(func(s *v1alpha1.BottleSpec) { s.DesiredState = "Paused" }), "spec.desiredState", `supported values: "Running", "Stopped"`},
		"caPath relative":            {withSpec(func(s *v1alpha1.BottleSpec) { s.Bundle = &v1alpha1.Bundle{CAPath: ptr("etc/ca.pem")} }), "spec.bundle.caPath", "caPath must be an absolute path"},
		"command of an empty string": {builders.MakeBottle("a").Command(""), "spec.command[0]", "at least 1 chars long"},
		"command with a NUL":         {builders.MakeBottle("a").Command("sh", "a\x00"), "spec.command[1]", "must not contain a NUL character"},
	}
	value := "x"
	tests["env value and source"].bottle.Spec.Env[0].Value = &value
	for space := range strings.SplitSeq("\t \n \v \f \r \u0085 \u00a0 \u1680 \u2000 \u2001 \u2002 \u2003 \u2004 \u2005 \u2006 \u2007 \u2008 \u2009 \u200a \u2028 \u2029 \u202f \u205f \u3000", " ") {
		tests[fmt.Sprintf("env value ending in %U", []rune(space)[0])] = refusal{
			builders.MakeBottle("a").Env("A", "a"+space), "spec.env[0].value", "value must not end in white space"}
	}
	tests["env value ending in a space"] = refusal{builders.MakeBottle("a").Env("A", "a "), "spec.env[0].value", "value must not end in white space"}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantRefused(t, c.Create(t.Context(), tc.bottle.Namespace(ns).Obj(), client.DryRunAll), tc.field+":", tc.rule)
		})
	}
}

func wantRefused(t *testing.T, err error, texts ...string) {
	t.Helper()
	if !apierrors.IsInvalid(err) {
		t.Fatalf("got %v, want it refused as invalid", err)
	}
	for _, want := range texts {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got message %q, want %q in it", err, want)
		}
	}
}
