// SPDX-License-Identifier: Apache-2.0

package placement

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
			pod, err := renderPod(b, pickResources(b, DefaultOptions()), pin, DefaultOptions())
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

// disks returns a Bottle with disks of these sizes; "" means not set.
func disks(storage, overlay string) *builders.Bottle {
	b := builders.MakeBottle("a")
	b.Spec.Machine = &v1alpha1.Machine{}
	for into, text := range map[**resource.Quantity]string{&b.Spec.Machine.Storage: storage, &b.Spec.Machine.Overlay: overlay} {
		if text != "" {
			*into = ptr.To(resource.MustParse(text))
		}
	}
	return b
}

func TestPickResources(t *testing.T) {
	tests := map[string]struct {
		bottle *builders.Bottle
		cpus   int32
		memory string
		disk   string
	}{
		"defaults":             {builders.MakeBottle("a"), 4, "8Gi", ""},
		"only cpus":            {builders.MakeBottle("a").CPUs(1), 1, "8Gi", ""},
		"only memory":          {builders.MakeBottle("a").Memory("64Mi"), 4, "64Mi", ""},
		"rounded up":           {builders.MakeBottle("a").Memory("64Mi").Memory("67108865"), 4, "65Mi", ""},
		"decimal unit":         {builders.MakeBottle("a").Memory("100M"), 4, "96Mi", ""},
		"a fraction of a byte": {builders.MakeBottle("a").Memory("134217728001m"), 4, "129Mi", ""},
		"the maximum":          {builders.MakeBottle("a").CPUs(16).Memory("1Ti"), 16, "1Ti", ""},
		"storage and overlay":  {disks("5G", "2Gi"), 4, "8Gi", "7Gi"}, // rounded up as for smolvm
		"only storage":         {disks("20Gi", ""), 4, "8Gi", "20Gi"},
		"only overlay":         {disks("", "10Gi"), 4, "8Gi", "10Gi"},
		"the largest disks":    {disks("64Ti", "64Ti"), 4, "8Gi", "128Ti"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := pickResources(tc.bottle.Obj(), DefaultOptions())
			disk := resource.MustParse("1Gi")
			if tc.disk != "" {
				disk = resource.MustParse(tc.disk)
			}
			want := v1alpha1.ResourcesStatus{CPUs: tc.cpus, Memory: resource.MustParse(tc.memory), Disk: &disk,
				Bundle:   &v1alpha1.BundleResources{CPU: resource.MustParse("250m"), Memory: resource.MustParse("128Mi")},
				Overhead: &v1alpha1.OverheadResources{CPU: ptr.To(resource.MustParse("100m")), Memory: ptr.To(resource.MustParse("128Mi"))}}
			if !sameResources(&got, &want) {
				t.Errorf("got %+v with disk %s, want %+v with disk %s", got, got.Disk, want, &disk)
			}
		})
	}
}

// The digest depends on what the Pod requests from the scheduler and on nothing
// else.
func TestDigest(t *testing.T) {
	digest := func(b *builders.Bottle) string {
		pod, err := renderPod(b.UID(testUID).Obj(), pickResources(b.Obj(), DefaultOptions()), "", DefaultOptions())
		if err != nil {
			t.Fatal(err)
		}
		return pod.Annotations[annotationDigest]
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
	o := DefaultOptions()
	o.BundleCPU, o.BundleMemory = resource.MustParse("2"), resource.MustParse("2Gi")
	got := placeholderContainer(v1alpha1.ResourcesStatus{CPUs: 1, Memory: resource.MustParse("1Gi")}, o).Resources.Requests
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
		pod, err := renderPod(b.UID(testUID).Obj(), pickResources(b.Obj(), DefaultOptions()), "", DefaultOptions())
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
