// SPDX-License-Identifier: Apache-2.0

package placement_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
)

const (
	safeToEvict  = "cluster-autoscaler.kubernetes.io/safe-to-evict"
	doNotDisrupt = "karpenter.sh/do-not-disrupt"
)

// spreadBy makes a Bottle name a label's key in a selector of spec.scheduling.
func spreadBy(b *builders.Bottle, key string) *builders.Bottle {
	b.Spec.Scheduling = &v1alpha1.Scheduling{TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway,
		LabelSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: metav1.LabelSelectorOpExists}}},
	}}}
	return b
}

// edit changes a Bottle as a user does.
func (w *world) edit(name string, change func(b *v1alpha1.Bottle)) {
	w.Helper()
	b := w.bottle(name)
	before := b.DeepCopy()
	change(b)
	w.must(w.c.Patch(w.Context(), b, client.MergeFrom(before)))
}

// notOurs returns the labels or annotations that do not have our prefix.
func notOurs(all map[string]string) map[string]string {
	out := maps.Clone(all)
	maps.DeleteFunc(out, func(key, _ string) bool { return strings.HasPrefix(key, "botbottle.dev/") })
	return out
}

// waitInherited waits until a Bottle's placeholder has exactly these labels and annotations
// beside ours, and checks that it is still the same Pod.
func (w *world) waitInherited(pod *corev1.Pod, labels, annotations map[string]string) {
	w.Helper()
	w.eventually(func() string {
		now := &corev1.Pod{}
		w.must(w.c.Get(w.Context(), client.ObjectKeyFromObject(pod), now))
		if now.UID != pod.UID {
			w.Fatal("got another placeholder, want the same one changed")
		}
		if diff := cmp.Diff(labels, notOurs(now.Labels)); diff != "" {
			return "labels (-want +got):\n" + diff
		}
		if diff := cmp.Diff(annotations, notOurs(now.Annotations)); diff != "" {
			return "annotations (-want +got):\n" + diff
		}
		return ""
	})
}

type values = map[string]string

// What autoscalers and drains read reaches the placeholder when it is created, when it
// is changed and when it is removed, before and after the Bottle has a node. What
// somebody else wrote to the Pod stays.
func TestInheritedAnnotations(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	node, _ := w.node("a")
	w.create(builders.MakeBottle("a").Annotation(safeToEvict, "false").Annotation("example.com/note", "x").Obj())
	pod := w.pod("a")
	w.waitInherited(pod, values{}, values{safeToEvict: "false"})
	w.edit("a", func(b *v1alpha1.Bottle) { b.Annotations[doNotDisrupt] = "true" })
	w.waitInherited(pod, values{}, values{safeToEvict: "false", doNotDisrupt: "true"})

	w.bind(pod, node)
	w.waitScheduled("a", "True Scheduled")
	w.takeOver("a")
	others := `{"metadata":{"annotations":{"karpenter.sh/disruption-cost":"7"}}}`
	w.must(w.c.Patch(t.Context(), pod.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(others)), client.FieldOwner("karpenter")))
	w.edit("a", func(b *v1alpha1.Bottle) {
		b.Annotations[doNotDisrupt] = "5m"
		delete(b.Annotations, safeToEvict)
	})
	w.waitInherited(pod, values{}, values{doNotDisrupt: "5m", "karpenter.sh/disruption-cost": "7"})
	w.edit("a", func(b *v1alpha1.Bottle) { b.Annotations = nil })
	w.waitInherited(pod, values{}, values{"karpenter.sh/disruption-cost": "7"})
	if got := condition(w.bottle("a"), v1alpha1.ConditionScheduled); got != "True Scheduled" {
		t.Errorf("got Scheduled %s, want True Scheduled", got)
	}
}

// A Service that selects Bottles by their labels does not select placeholders, unless
// spec.scheduling names the label. Labels of ours cannot be overridden.
func TestInheritedLabels(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	node, _ := w.node("a")
	b := w.create(spreadBy(builders.MakeBottle("a"), "team").
		Label("team", "x").Label("app", "web").Label("app.kubernetes.io/name", "web").Label("kueue.x-k8s.io/queue-name", "agents").
		Label("botbottle.dev/uid", "forged").Label("botbottle.dev/slug", "forged").Label("botbottle.dev/cluster", "forged").Obj())
	pod := w.pod("a")
	queue := values{"kueue.x-k8s.io/queue-name": "agents"}
	w.waitInherited(pod, values{"team": "x", "kueue.x-k8s.io/queue-name": "agents"}, values{})
	want := values{v1alpha1.LabelUID: string(b.UID), v1alpha1.LabelSlug: "a", v1alpha1.LabelNamespace: w.ns, v1alpha1.LabelName: "a"}
	for key, value := range pod.Labels {
		if strings.HasPrefix(key, "botbottle.dev/") && want[key] != value {
			t.Errorf("got label %s=%s, want %q", key, value, want[key])
		}
	}

	w.bind(pod, node)
	w.waitScheduled("a", "True Scheduled")
	w.takeOver("a")
	w.edit("a", func(b *v1alpha1.Bottle) { b.Labels["team"], b.Labels["app"] = "y", "api" })
	w.waitInherited(pod, values{"team": "y", "kueue.x-k8s.io/queue-name": "agents"}, values{})
	w.edit("a", func(b *v1alpha1.Bottle) { delete(b.Labels, "team") })
	w.waitInherited(pod, queue, values{})
}

// A placeholder of an earlier manager has all labels that its Bottle had then. It loses
// those that are not inherited any more, and keeps those that others gave to it.
func TestUpgradedPlaceholder(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	node, _ := w.node("a")
	w.create(spreadBy(builders.MakeBottle("a"), "team").Label("team", "x").Label("app", "web").Obj())
	pod := w.pod("a")
	w.bind(pod, node)
	w.waitScheduled("a", "True Scheduled")
	w.takeOver("a")
	w.stop()
	for owner, labels := range map[string]string{"bottle-manager": `{"app":"web","removed-since":"x"}`, "cost-reports": `{"cost-center":"7"}`} {
		patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":`+labels+`}}`))
		w.must(w.c.Patch(t.Context(), pod.DeepCopy(), patch, client.FieldOwner(owner)))
	}
	w.start(interceptor.Funcs{})
	w.waitInherited(pod, values{"team": "x", "cost-center": "7"}, values{})
}

// An admission webhook may refuse a changed label, as Kueue's does for a queue. The
// annotations and the status are written all the same, and an Event says why.
func TestRefusedChangeOfLabels(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
		if data, err := p.Data(o); err == nil && strings.Contains(string(data), `"labels"`) {
			return apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, o.GetName(), fmt.Errorf("queue-name is immutable"))
		}
		return c.Patch(ctx, o, p, opts...)
	}})
	node, _ := w.node("a")
	w.placed(builders.MakeBottle("a").Label("kueue.x-k8s.io/queue-name", "one").Obj(), node)
	w.takeOver("a")
	pod := w.pod("a")
	w.edit("a", func(b *v1alpha1.Bottle) {
		b.Labels["kueue.x-k8s.io/queue-name"] = "two"
		b.Annotations = values{doNotDisrupt: "true"}
	})
	w.waitInherited(pod, values{"kueue.x-k8s.io/queue-name": "one"}, values{doNotDisrupt: "true"})
	w.waitEvent(v1alpha1.ReasonPlaceholderRefused)
	if got := w.errors.all(); len(got) > 0 {
		t.Errorf("got errors %q in the log, want none", got)
	}
}
