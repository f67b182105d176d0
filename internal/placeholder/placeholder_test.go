// SPDX-License-Identifier: Apache-2.0

package placeholder

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const testUID = "1a2b3c4d-0000-4000-8000-000000000000"

// options are those of the tests.
var options = func() Options {
	o := DefaultOptions()
	o.BundleImage = "registry.test/bottle-operator:1.2.3"
	return o
}()

// testdata/NAME.in.yaml is a Bottle, and NAME.out.yaml is its placeholder.
func TestRenderPod(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("got %d inputs (%v), want some", len(inputs), err)
	}
	for _, input := range inputs {
		t.Run(filepath.Base(input), func(t *testing.T) {
			data, err := os.ReadFile(input)
			if err != nil {
				t.Fatal(err)
			}
			b := &v1alpha1.Bottle{}
			if err := yaml.UnmarshalStrict(data, b); err != nil {
				t.Fatal(err)
			}
			b.UID = testUID
			pin := ""
			if b.Status.NodeName != nil {
				pin = *b.Status.NodeName
			}
			pod, err := Render(b, Resources(b, options), pin, options)
			if err != nil {
				t.Fatal(err)
			}
			got, err := yaml.Marshal(pod)
			if err != nil {
				t.Fatal(err)
			}
			output := strings.TrimSuffix(input, ".in.yaml") + ".out.yaml"
			if *update {
				if err := os.WriteFile(output, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(output)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("placeholder (-want +got):\n%s", diff)
			}
		})
	}
}

// The digest depends on what the Pod requests from the scheduler and on nothing
// else.
func TestDigest(t *testing.T) {
	digest := func(b *builders.Bottle) string {
		pod, err := Render(b.UID(testUID).Obj(), Resources(b.Obj(), options), "", options)
		if err != nil {
			t.Fatal(err)
		}
		return pod.Annotations[AnnotationDigest]
	}
	base := digest(builders.MakeBottle("a"))
	same := map[string]*builders.Bottle{
		"nothing":    builders.MakeBottle("a"),
		"env":        builders.MakeBottle("a").Env("A", "b"),
		"annotation": builders.MakeBottle("a").Annotation("karpenter.sh/do-not-disrupt", "true"),
		"label":      builders.MakeBottle("a").Label("x", "y"),
		"default":    builders.MakeBottle("a").CPUs(4),
	}
	for name, b := range same {
		if got := digest(b); got != base {
			t.Errorf("%s: got digest %s, want %s as before", name, got, base)
		}
	}
	changed := map[string]*builders.Bottle{
		"cpus":       builders.MakeBottle("a").CPUs(3),
		"queue":      builders.MakeBottle("a").Label("kueue.x-k8s.io/queue-name", "y"),
		"storage":    disks("2Gi", ""),
		"pin":        builders.MakeBottle("a").Pin("node-a"),
		"selector":   builders.MakeBottle("a").NodeSelector("x", "y"),
		"bundle":     builders.MakeBottle("a").BundlePorts(8888, 9000),
		"toleration": builders.MakeBottle("a").Toleration(corev1.Toleration{Operator: corev1.TolerationOpExists}),
	}
	for name, b := range changed {
		if got := digest(b); got == base {
			t.Errorf("%s: got digest %s as before, want another", name, got)
		}
	}
}

// A Bottle that an earlier manager placed has no record of its bundle's limits and
// its disk. The agent then applies the default limits, so these are booked.
func TestBookingOfAnEarlierManagersBottle(t *testing.T) {
	o := options
	o.BundleCPU, o.BundleMemory = resource.MustParse("2"), resource.MustParse("2Gi")
	got := requirements(v1alpha1.ResourcesStatus{CPUs: 1, Memory: resource.MustParse("1Gi")}, o).Requests
	want := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("1350m"), corev1.ResourceMemory: resource.MustParse("1280Mi"), v1alpha1.ResourceBottle: resource.MustParse("1"),
	}
	if !equality.Semantic.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// OpenShift's restricted-v2 refuses users, groups and SELinux labels that are not the
// namespace's own, and PodSecurity's restricted refuses a Pod that may run as root. GKE
// refuses the priority classes of Kubernetes outside kube-system.
func TestPlaceholderLeavesItsUserToTheNamespace(t *testing.T) {
	for name, b := range map[string]*builders.Bottle{
		"minimal": builders.MakeBottle("a"),
		"pinned":  builders.MakeBottle("a").Pin("node-a"),
	} {
		pod, err := Render(b.UID(testUID).Obj(), Resources(b.Obj(), options), "", options)
		if err != nil {
			t.Fatal(err)
		}
		want := &corev1.PodSecurityContext{RunAsNonRoot: ptr.To(true), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
		if diff := cmp.Diff(want, pod.Spec.SecurityContext); diff != "" {
			t.Errorf("%s: security context (-want +got):\n%s", name, diff)
		}
		for _, c := range pod.Spec.Containers {
			if s := c.SecurityContext; s.RunAsUser != nil || s.RunAsGroup != nil || s.SELinuxOptions != nil || s.SeccompProfile != nil || s.RunAsNonRoot != nil {
				t.Errorf("%s: got security context %v of container %s, want none of the user's settings", name, s, c.Name)
			}
		}
		if pod.Spec.PriorityClassName != "" {
			t.Errorf("%s: got priority class %s, want none", name, pod.Spec.PriorityClassName)
		}
	}
}

// A pin restricts each of the user's alternatives. A term that matched nothing
// still matches nothing.
func TestPinned(t *testing.T) {
	term := func(key string) corev1.NodeSelectorTerm {
		return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpExists}}}
	}
	a := &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{term("x"), {}, term("y")}},
	}}
	before := a.DeepCopy()
	got := pinned(a, "node-a").NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	pin := []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"node-a"}}}
	x, y := term("x"), term("y")
	x.MatchFields, y.MatchFields = pin, pin
	if diff := cmp.Diff([]corev1.NodeSelectorTerm{x, {}, y}, got); diff != "" {
		t.Errorf("terms (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, a); diff != "" {
		t.Errorf("the Bottle's own affinity was changed:\n%s", diff)
	}
}
