// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/placeholder"
	"botbottle.dev/bottle-operator/test/builders"
)

// TestPlaceholders checks which Pods with a Bottle's name are its placeholder and
// which are removed because an earlier Bottle left them behind.
func TestPlaceholders(t *testing.T) {
	tests := map[string]struct {
		change func(*corev1.Pod)
		want   string
		// without is the wanted result when the Bottle does not exist.
		without string
	}{
		"its own":                         {func(*corev1.Pod) {}, "own", "stray"},
		"its own, without the annotation": {func(p *corev1.Pod) { p.Annotations = nil }, "own", "stray"},
		"of an earlier Bottle": {func(p *corev1.Pod) {
			p.Labels[v1alpha1.LabelUID], p.OwnerReferences[0].UID, p.Name = "old", "old", "bottle-old"
		}, "stray", "stray"},
		"a copy under another name":  {func(p *corev1.Pod) { p.Name = "copy" }, "stray", "stray"},
		"controlled by another UID":  {func(p *corev1.Pod) { p.OwnerReferences[0].UID = "old" }, "stray", "stray"},
		"without a controller":       {func(p *corev1.Pod) { p.OwnerReferences = nil }, "", "stray"},
		"without our finalizer":      {func(p *corev1.Pod) { p.Name, p.Finalizers = "copy", nil }, "", ""},
		"of a ReplicaSet":            {func(p *corev1.Pod) { p.OwnerReferences[0].Kind, p.OwnerReferences[0].UID = "ReplicaSet", "r" }, "", ""},
		"of somebody else's Bottles": {func(p *corev1.Pod) { p.Name, p.OwnerReferences[0].APIVersion = "x", "wine.example/v1" }, "", ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			b := builders.MakeBottle("a").Obj()
			o := DefaultOptions()
			pod, err := placeholder.Render(b, placeholder.Resources(b, o.Options), "", o.Options)
			if err != nil {
				t.Fatal(err)
			}
			tc.change(pod)
			if diff := cmp.Diff([]string{tc.want, tc.without}, []string{kindOf(b, pod), kindOf(nil, pod)}); diff != "" {
				t.Errorf("with and without the Bottle (-want +got):\n%s", diff)
			}
		})
	}
}

func kindOf(b *v1alpha1.Bottle, pod *corev1.Pod) string {
	own, _, strays := classifyPods(b, []corev1.Pod{*pod})
	switch {
	case own != nil:
		return "own"
	case len(strays) > 0:
		return "stray"
	}
	return ""
}

// A placeholder's events reach its Bottle as long as the Pod has its annotation
// or its controller.
func TestBottleOfPod(t *testing.T) {
	tests := map[string]struct {
		change func(*corev1.Pod)
		want   string
	}{
		"both":           {func(*corev1.Pod) {}, "a"},
		"no controller":  {func(p *corev1.Pod) { p.OwnerReferences = nil }, "a"},
		"no annotation":  {func(p *corev1.Pod) { p.Annotations = nil }, "a"},
		"neither":        {func(p *corev1.Pod) { p.Annotations, p.OwnerReferences = nil, nil }, ""},
		"not a Bottle's": {func(p *corev1.Pod) { p.Annotations, p.OwnerReferences[0].Kind = nil, "Job" }, ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			b, o := builders.MakeBottle("a").Obj(), DefaultOptions()
			pod, err := placeholder.Render(b, placeholder.Resources(b, o.Options), "", o.Options)
			if err != nil {
				t.Fatal(err)
			}
			tc.change(pod)
			got := ""
			for _, r := range bottleOfPod(t.Context(), pod) {
				got += r.Name
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
