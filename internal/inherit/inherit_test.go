// SPDX-License-Identifier: Apache-2.0

package inherit

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
)

// every are labels of each kind. The value of each is its key.
func every(b *builders.Bottle, keys ...string) *v1alpha1.Bottle {
	for _, key := range append(keys, "app", "app.kubernetes.io/instance", "team", "example.com/tier", "pod-template-hash") {
		b.Label(key, "x")
	}
	return b.Obj()
}

func matching(keys ...string) *metav1.LabelSelector {
	s := &metav1.LabelSelector{MatchLabels: map[string]string{}}
	for _, key := range keys {
		s.MatchLabels[key] = "x"
	}
	return s
}

func TestLabels(t *testing.T) {
	spread := func(c corev1.TopologySpreadConstraint) *v1alpha1.Scheduling {
		return &v1alpha1.Scheduling{TopologySpreadConstraints: []corev1.TopologySpreadConstraint{c}}
	}
	affinity := func(a corev1.Affinity) *v1alpha1.Scheduling { return &v1alpha1.Scheduling{Affinity: &a} }
	terms := func(t corev1.PodAffinityTerm) []corev1.PodAffinityTerm { return []corev1.PodAffinityTerm{t} }
	weighted := func(t corev1.PodAffinityTerm) []corev1.WeightedPodAffinityTerm {
		return []corev1.WeightedPodAffinityTerm{{Weight: 1, PodAffinityTerm: t}}
	}
	team := corev1.PodAffinityTerm{LabelSelector: matching("team"), NamespaceSelector: matching("app")}
	onNodes := corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "app", Operator: corev1.NodeSelectorOpExists}}}
	tests := map[string]struct {
		scheduling *v1alpha1.Scheduling
		extra      []string // further labels of the Bottle
		want       []string // the labels that are inherited
	}{
		"no scheduling":       {nil, nil, nil},
		"nothing is named":    {&v1alpha1.Scheduling{}, nil, nil},
		"a node selector":     {&v1alpha1.Scheduling{NodeSelector: map[string]string{"app": "x", "team": "x"}}, nil, nil},
		"spread":              {spread(corev1.TopologySpreadConstraint{LabelSelector: matching("team")}), nil, []string{"team"}},
		"spread, by key":      {spread(corev1.TopologySpreadConstraint{LabelSelector: matching("team"), MatchLabelKeys: []string{"example.com/tier"}}), nil, []string{"team", "example.com/tier"}},
		"spread, expressions": {spread(corev1.TopologySpreadConstraint{LabelSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "team", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"y"}}}}}), nil, []string{"team"}},
		"affinity":            {affinity(corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms(team)}}), nil, []string{"team"}},
		"preferred affinity":  {affinity(corev1.Affinity{PodAffinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: weighted(team)}}), nil, []string{"team"}},
		"anti-affinity":       {affinity(corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms(team)}}), nil, []string{"team"}},
		"preferred anti-affinity, by key": {affinity(corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: weighted(corev1.PodAffinityTerm{
			MatchLabelKeys: []string{"pod-template-hash"}, MismatchLabelKeys: []string{"team"},
		})}}), nil, []string{"pod-template-hash", "team"}},
		"node affinity": {affinity(corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution:  &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{onNodes}},
			PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: 1, Preference: onNodes}},
		}}), nil, nil},
		"a key that the Bottle lacks": {spread(corev1.TopologySpreadConstraint{LabelSelector: matching("other")}), nil, nil},
		"listed keys":                 {nil, LabelKeys, LabelKeys},
		"our prefix":                  {nil, []string{"botbottle.dev/uid", "botbottle.dev/x"}, nil},
		"our prefix, named": {spread(corev1.TopologySpreadConstraint{LabelSelector: matching("botbottle.dev/uid", "x.botbottle.dev/y", "team")}),
			[]string{"botbottle.dev/uid", "x.botbottle.dev/y"}, []string{"team"}},
		"a prefix that only looks like ours": {spread(corev1.TopologySpreadConstraint{LabelSelector: matching("notbotbottle.dev/x")}),
			[]string{"notbotbottle.dev/x"}, []string{"notbotbottle.dev/x"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			b := every(builders.MakeBottle("a"), tc.extra...)
			b.Spec.Scheduling = tc.scheduling
			want := map[string]string{}
			for _, key := range tc.want {
				want[key] = "x"
			}
			if diff := cmp.Diff(want, Labels(b)); diff != "" {
				t.Errorf("labels (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAnnotations(t *testing.T) {
	inherited := []string{
		"autoscaling.cast.ai/removal-disabled",
		"autoscaling.x-k8s.io/consume-provisioning-request",
		"cluster-autoscaler.kubernetes.io/pod-scale-up-delay",
		"cluster-autoscaler.kubernetes.io/safe-to-evict",
		"cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes",
		"controller.kubernetes.io/pod-deletion-cost",
		"descheduler.alpha.kubernetes.io/evict",
		"descheduler.alpha.kubernetes.io/prefer-no-eviction",
		"karpenter.sh/do-not-disrupt",
		"karpenter.sh/do-not-evict",
		"kueue.x-k8s.io/podset-required-topology",
		"provreq.kueue.x-k8s.io/maxRunDurationSeconds",
		"sidecar.istio.io/inject",
	}
	b := builders.MakeBottle("a")
	want := map[string]string{}
	for _, key := range inherited {
		b.Annotation(key, "x")
		want[key] = "x"
	}
	for _, key := range []string{
		"botbottle.dev/prove", "botbottle.dev/placeholder-digest", "example.com/x", "karpenter.sh", "karpenter.shx/y", "x-karpenter.sh/y",
		"kubectl.kubernetes.io/last-applied-configuration", "kueue.x-k8s.io/workload", "prometheus.io/scrape", "argocd.argoproj.io/tracking-id",
		"vault.hashicorp.com/agent-inject",
	} {
		b.Annotation(key, "x")
	}
	if diff := cmp.Diff(want, Annotations(b.Obj())); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
	if got := Annotations(builders.MakeBottle("a").Obj()); got == nil || len(got) > 0 {
		t.Errorf("got %v for a Bottle without annotations, want an empty map", got)
	}
}

// docs/kubernetes.md lists what is inherited, and nothing else.
func TestDocumentedKeys(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "kubernetes.md"))
	if err != nil {
		t.Fatal(err)
	}
	for section, keys := range map[string][]string{"labels": LabelKeys, "annotations": AnnotationKeys} {
		_, text, found := strings.Cut(string(page), "<!-- inherited "+section+" -->")
		text, _, closed := strings.Cut(text, "<!-- end -->")
		if !found || !closed {
			t.Fatalf("docs/kubernetes.md has no list between <!-- inherited %s --> and <!-- end -->", section)
		}
		listed := map[string]bool{}
		for line := range strings.Lines(text) {
			// | `KEY`, `KEY` | who reads it |
			cells := strings.Split(line, "|")
			if len(cells) < 3 {
				continue
			}
			for i, word := range strings.Split(cells[1], "`") {
				if i%2 == 1 {
					listed[strings.TrimSuffix(word, "…")] = true
				}
			}
		}
		if diff := cmp.Diff(slices.Sorted(slices.Values(keys)), slices.Sorted(maps.Keys(listed))); diff != "" {
			t.Errorf("inherited %s in docs/kubernetes.md (-code +docs):\n%s", section, diff)
		}
	}
}

// No annotations of a Bottle can make its placeholder too large for the API server.
func TestAnnotationsAreBounded(t *testing.T) {
	b := builders.MakeBottle("a").Annotation("karpenter.sh/a-large", strings.Repeat("x", 256<<10)).Annotation("karpenter.sh/do-not-disrupt", "true")
	for i := range 300 {
		b.Annotation(fmt.Sprintf("karpenter.sh/x-%03d", i), strings.Repeat("y", 1000))
	}
	size := 0
	got := Annotations(b.Obj())
	for key, value := range got {
		size += len(key) + len(value)
	}
	if size > 16<<10 || got["karpenter.sh/do-not-disrupt"] != "true" || got["karpenter.sh/x-000"] == "" {
		t.Errorf("got %d annotations of %d bytes in all, want those that fit into 16 KiB", len(got), size)
	}
}
