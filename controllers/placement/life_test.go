// SPDX-License-Identifier: Apache-2.0

package placement_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
)

// TestLife follows a Bottle from creation to deletion, in a namespace that
// enforces PodSecurity "restricted". Once the Bottle has the condition Ready, it
// never loses it.
func TestLife(t *testing.T) {
	w := newWorld(t)
	w.enforce("restricted")
	w.start(interceptor.Funcs{})
	node, _ := w.node("a")
	b := w.create(builders.MakeBottle("a").Label("team", "x").Obj())
	watch := w.watchReady(b)

	w.waitScheduled("a", "False Pending")
	pod := w.pod("a")
	if got, want := pod.Name, "bottle-a-"+string(b.UID)[:8]; got != want {
		t.Errorf("got Pod %s, want %s", got, want)
	}
	if got, want := condition(w.bottle("a"), v1alpha1.ConditionReady), "False Pending"; got != want {
		t.Errorf("got Ready %s, want %s", got, want)
	}
	if pod.Labels["team"] != "" || !metav1.IsControlledBy(pod, b) {
		t.Errorf("got labels %v and owners %v, want no label of the Bottle, and the Bottle as controller", pod.Labels, pod.OwnerReferences)
	}

	w.bind(pod, node)
	w.waitScheduled("a", "True Scheduled")
	got := w.bottle("a")
	want := &v1alpha1.ResourcesStatus{CPUs: 2, Memory: resource.MustParse("2Gi"), Disk: ptr.To(resource.MustParse("1Gi")),
		Bundle:   &v1alpha1.BundleResources{CPU: resource.MustParse("250m"), Memory: resource.MustParse("128Mi")},
		Overhead: &v1alpha1.OverheadResources{CPU: ptr.To(resource.MustParse("100m")), Memory: ptr.To(resource.MustParse("128Mi"))}}
	if diff := cmp.Diff(want, got.Status.Resources); diff != "" {
		t.Errorf("resources (-want +got):\n%s", diff)
	}
	if *got.Status.NodeName != node {
		t.Errorf("got node %s, want %s", *got.Status.NodeName, node)
	}
	if ready := condition(got, v1alpha1.ConditionReady); ready != "False Progressing" {
		t.Errorf("got Ready %s at the hand-over, want False Progressing", ready)
	}

	w.newGeneration("a", 2) // the manager observes it while no agent owns Ready
	w.takeOver("a")
	w.newGeneration("a", 3)
	if ready := condition(w.bottle("a"), v1alpha1.ConditionReady); ready != "False Proving" {
		t.Errorf("got Ready %s, want the agent's False Proving", ready)
	}

	w.must(w.c.Delete(t.Context(), w.bottle("a")))
	w.always(func() string {
		if len(w.pods("a")) != 1 {
			return "the placeholder Pod is gone before the machine is"
		}
		return ""
	})
	w.tornDown("a")
	w.eventually(func() string {
		if n := len(w.pods("a")); n > 0 {
			return "a placeholder Pod is left"
		}
		return ""
	})
	for _, missing := range watch() {
		t.Error(missing)
	}
}

// newGeneration changes the spec and waits until the manager has observed it.
func (w *world) newGeneration(name string, want int64) {
	w.Helper()
	b := w.bottle(name)
	before := b.DeepCopy()
	b.Spec.Command = []string{"sh", fmt.Sprint(want)}
	w.must(w.c.Patch(w.Context(), b, client.MergeFrom(before)))
	w.eventually(func() string {
		for _, c := range w.bottle(name).Status.Conditions {
			if c.Type == v1alpha1.ConditionScheduled && c.ObservedGeneration != want {
				return fmt.Sprintf("got observedGeneration %d, want %d", c.ObservedGeneration, want)
			}
		}
		return ""
	})
}

// enforce makes the namespace enforce a level of PodSecurity.
func (w *world) enforce(level string) {
	w.Helper()
	ns := &corev1.Namespace{}
	w.must(w.c.Get(w.Context(), client.ObjectKey{Name: w.ns}, ns))
	metav1.SetMetaDataLabel(&ns.ObjectMeta, "pod-security.kubernetes.io/enforce", level)
	w.must(w.c.Update(w.Context(), ns))
}

// watchReady watches every version of a Bottle. Call the returned function to
// wait until the Bottle is gone and to list the versions that lost Ready.
func (w *world) watchReady(b *v1alpha1.Bottle) func() []string {
	w.Helper()
	watch, err := w.c.Watch(w.Context(), &v1alpha1.BottleList{}, client.InNamespace(w.ns),
		client.MatchingFields{"metadata.name": b.Name})
	w.must(err)
	found := make(chan []string, 1)
	go func() {
		var missing []string
		had := false
		for e := range watch.ResultChan() {
			seen, ok := e.Object.(*v1alpha1.Bottle)
			if !ok {
				continue
			}
			has := condition(seen, v1alpha1.ConditionReady) != ""
			if had && !has {
				missing = append(missing, fmt.Sprintf("version %s has no Ready: %v", seen.ResourceVersion, seen.Status.Conditions))
			}
			had = had || has
		}
		found <- missing
	}()
	return func() []string {
		w.eventually(func() string {
			err := w.c.Get(w.Context(), client.ObjectKeyFromObject(b), &v1alpha1.Bottle{})
			if client.IgnoreNotFound(err) != nil || err == nil {
				return "the Bottle is still there"
			}
			return ""
		})
		watch.Stop()
		return <-found
	}
}
