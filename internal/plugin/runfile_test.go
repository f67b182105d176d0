// SPDX-License-Identifier: Apache-2.0

package plugin_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

const bottleFile = `# A job.
apiVersion: botbottle.dev/v1alpha1
kind: Bottle
metadata:
  name: job
  labels: {team: a}
spec:
  slug: sluggish
  command: ["sh", "-c", "echo done"]
  env: [{name: A, value: "1"}, {name: B, value: "2"}]
  egress: {allow: [a.example]}
  machine: {cpus: 1}
  lifetime: {activeDeadlineSeconds: 60, ttlSecondsAfterFinished: 5}
`

// TestRunFile runs the Bottle in a file, as it is and changed by flags.
func TestRunFile(t *testing.T) {
	spec := v1alpha1.BottleSpec{
		Slug: "sluggish", Command: []string{"sh", "-c", "echo done"}, RestartPolicy: "Never", Stdin: "Closed",
		Env:      []v1alpha1.EnvVar{{Name: "A", Value: ptr.To("1")}, {Name: "B", Value: ptr.To("2")}},
		Egress:   &v1alpha1.Egress{Allow: []v1alpha1.EgressRule{"a.example"}},
		Machine:  &v1alpha1.Machine{CPUs: ptr.To[int32](1)},
		Lifetime: &v1alpha1.Lifetime{ActiveDeadlineSeconds: ptr.To[int64](60), TTLSecondsAfterFinished: ptr.To[int32](5)},
	}
	for name, tt := range map[string]struct {
		file   string
		args   []string
		change func(*v1alpha1.BottleSpec)
		stdin  bool
	}{
		"as it is":         {file: bottleFile},
		"its namespace":    {file: strings.Replace(bottleFile, "name: job", "name: job\n  namespace: team", 1)},
		"standard input":   {file: bottleFile, stdin: true},
		"NAME replaces":    {file: strings.Replace(bottleFile, "name: job", "name: other", 1), args: []string{"job"}},
		"its own policy":   {file: bottleFile + "  restartPolicy: OnFailure\n", change: func(s *v1alpha1.BottleSpec) { s.RestartPolicy = "OnFailure" }},
		"COMMAND replaces": {file: bottleFile, args: []string{"--", "x", "-y"}, change: func(s *v1alpha1.BottleSpec) { s.Command = []string{"x", "-y"} }},
		"NAME and COMMAND": {file: bottleFile, args: []string{"job", "--", "x"}, change: func(s *v1alpha1.BottleSpec) { s.Command = []string{"x"} }},
		"a variable replaces": {file: bottleFile, args: []string{"--env", "A=3"}, change: func(s *v1alpha1.BottleSpec) {
			s.Env[0], s.Env[1] = s.Env[1], v1alpha1.EnvVar{Name: "A", Value: ptr.To("3")}
		}},
		"flags": {file: bottleFile, args: []string{"--image", "i:1", "--slug", "s", "--allow", "b.example", "--cpus", "2", "--timeout", "90s", "--restart", "Always"}, change: func(s *v1alpha1.BottleSpec) {
			s.Image, s.Slug, s.RestartPolicy = ptr.To("i:1"), "s", "Always"
			s.Egress.Allow = append(s.Egress.Allow, "b.example")
			s.Machine.CPUs, s.Lifetime.ActiveDeadlineSeconds = ptr.To[int32](2), ptr.To[int64](90)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			operate(c, "Failed", v1alpha1.WorkloadStatus{ExitCode: ptr.To[int32](42)}, "stdout F done")
			path, in := "-", tt.file
			if !tt.stdin {
				path, in = filepath.Join(t.TempDir(), "job.yaml"), ""
				if err := os.WriteFile(path, []byte(tt.file), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got := c.input(in, append([]string{"run", "-f", path}, tt.args...)...)
			if got.code != 42 || got.out != "done\n" {
				t.Fatalf("got %+v, want exit code 42", got)
			}
			want := *spec.DeepCopy()
			if tt.change != nil {
				tt.change(&want)
			}
			b := c.find("job")
			if diff := cmp.Diff(want, b.Spec); diff != "" || b.Labels["team"] != "a" {
				t.Errorf("labels %v, spec (-want +got):\n%s", b.Labels, diff)
			}
		})
	}
}

func TestRunFileRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		file, want string
		args       []string
	}{
		"two objects":       {file: bottleFile + "---\n" + bottleFile, want: "got 2 objects, want one Bottle"},
		"another kind":      {file: "apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n", want: "want a Bottle of botbottle.dev/v1alpha1"},
		"unknown field":     {file: bottleFile + "  comand: [x]\n", want: `unknown field "spec.comand"`},
		"no name":           {file: strings.Replace(bottleFile, "  name: job\n", "", 1), want: "the Bottle in it has no name"},
		"another namespace": {file: strings.Replace(bottleFile, "name: job", "name: job\n  namespace: other", 1), args: []string{"-n", "team"}, want: "namespace"},
		"terminal":          {file: bottleFile, args: []string{"-f", "-", "-i"}, want: "-i needs the standard input"},
		"no dashes":         {file: bottleFile, args: []string{"job", "x"}, want: "put -- before the command"},
		"no file":           {args: []string{"-f", "/no/such/file"}, want: "/no/such/file"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			path := filepath.Join(t.TempDir(), "job.yaml")
			if err := os.WriteFile(path, []byte(tt.file), 0o600); err != nil {
				t.Fatal(err)
			}
			got := c.bottle(append([]string{"run", "-f", path}, tt.args...)...)
			if got.code != 1 || !strings.Contains(got.errOut, tt.want) {
				t.Errorf("got %+v, want exit code 1 and %q", got, tt.want)
			}
			if b := c.find("job"); b != nil {
				t.Errorf("the Bottle was created: %+v", b)
			}
		})
	}
}
