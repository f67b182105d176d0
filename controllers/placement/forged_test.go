// SPDX-License-Identifier: Apache-2.0

package placement_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
)

// Admission lets an administrator write what it refuses to a tenant, so these
// tests show what the manager does where admission does not help.

// forge replaces the placeholder of a Bottle, while no manager runs, with a changed copy
// that is bound to the given node. It returns both.
func (w *world) forge(name string, change func(pod *corev1.Pod)) (real, forged *corev1.Pod) {
	w.Helper()
	w.start(interceptor.Funcs{})
	w.create(builders.MakeBottle(name).CPUs(16).Memory("512Gi").Obj())
	real = w.pod(name)
	w.waitScheduled(name, "False Pending")
	w.stop()
	w.must(w.c.Patch(w.Context(), real, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))))
	w.must(w.c.Delete(w.Context(), real, client.GracePeriodSeconds(0)))
	forged = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: real.Namespace, Name: real.Name, Labels: real.Labels, Annotations: real.Annotations,
		Finalizers: []string{v1alpha1.FinalizerMachine}, OwnerReferences: real.OwnerReferences,
	}}
	forged.Spec.NodeName, _ = w.node("control-plane")
	forged.Spec.Containers = []corev1.Container{{Name: "c", Image: "x", Resources: *real.Spec.Containers[0].Resources.DeepCopy()}}
	change(forged)
	w.must(w.c.Create(w.Context(), forged))
	return real, forged
}

// A Pod with the owner, name, labels and digest of a placeholder, on a
// control-plane node, places nothing unless it books what the Bottle needs.
func TestForgedPod(t *testing.T) {
	for name, change := range map[string]func(pod *corev1.Pod){
		"no requests": func(pod *corev1.Pod) { pod.Spec.Containers[0].Resources = corev1.ResourceRequirements{} },
		"no bottle": func(pod *corev1.Pod) {
			delete(pod.Spec.Containers[0].Resources.Requests, v1alpha1.ResourceBottle)
			delete(pod.Spec.Containers[0].Resources.Limits, v1alpha1.ResourceBottle)
		},
		"a little less memory": func(pod *corev1.Pod) {
			pod.Spec.Containers[0].Resources.Requests[corev1.ResourceMemory] = resource.MustParse("512Gi") // without overhead
		},
		"another container": func(pod *corev1.Pod) {
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "d", Image: "x"})
		},
		"an init container": func(pod *corev1.Pod) {
			pod.Spec.InitContainers = []corev1.Container{{Name: "d", Image: "x"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			real, forged := w.forge("a", change)
			w.start(interceptor.Funcs{})
			w.eventually(func() string {
				if pods := w.pods("a"); len(pods) != 1 || pods[0].UID == forged.UID {
					return "the forged Pod was not replaced"
				}
				return ""
			})
			w.waitEvent(v1alpha1.ReasonPlaceholderMismatch)
			w.waitScheduled("a", "False Pending")
			pod := w.pod("a")
			want := real.Spec.Containers[0].Resources.Requests
			if got := pod.Spec.Containers[0].Resources.Requests; pod.Spec.NodeName != "" || !equality.Semantic.DeepEqual(got, want) {
				t.Errorf("got a Pod on %q that requests %v, want one that waits for the scheduler and requests %v", pod.Spec.NodeName, got, want)
			}
			for _, f := range w.bottle("a").ManagedFields {
				if f.Subresource == "status" && strings.Contains(string(f.FieldsV1.GetRawBytes()), "f:nodeName") {
					t.Errorf("got the node set by %s, want it never set", f.Manager)
				}
			}
		})
	}
}

// Admission guards references to Bottles. A reference to another kind that carries
// the Bottle's UID makes no placeholder.
func TestForgedKindOfOwner(t *testing.T) {
	w := newWorld(t)
	_, forged := w.forge("a", func(pod *corev1.Pod) {
		pod.OwnerReferences[0].APIVersion, pod.OwnerReferences[0].Kind = "v1", "ConfigMap"
	})
	w.start(interceptor.Funcs{})
	w.waitScheduled("a", "False PlaceholderRefused")
	if got := message(w.bottle("a"), v1alpha1.ConditionScheduled); !strings.Contains(got, forged.Name+" already exists and does not belong to this Bottle") {
		t.Errorf("got message %q, want it to name the Pod", got)
	}
	if node := w.bottle("a").Status.NodeName; node != nil {
		t.Errorf("got node %s, want none", *node)
	}
}

// A placeholder whose requests were lowered in place is replaced by one for the
// same node, and the Bottle stays there.
func TestShrunkPlaceholder(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	node, _ := w.node("a")
	w.must(w.c.Status().Patch(t.Context(), w.readNode(node), client.RawPatch("application/merge-patch+json", []byte(`{"status":{"allocatable":{"cpu":"8","memory":"8Gi"}}}`))))
	w.placed(builders.MakeBottle("a").CPUs(4).Obj(), node)
	w.takeOver("a")
	pod := w.pod("a")
	less := `{"spec":{"containers":[{"name":"bundle","resources":{"requests":{"cpu":"1m"},"limits":{"cpu":"1m"}}}]}}`
	w.must(w.c.SubResource("resize").Patch(t.Context(), pod.DeepCopy(), client.RawPatch("application/strategic-merge-patch+json", []byte(less))))
	w.eventually(func() string {
		if got := condition(w.bottle("a"), v1alpha1.ConditionScheduled); got != "True Scheduled" {
			t.Fatalf("got Scheduled %s (%s), want the Bottle to stay", got, message(w.bottle("a"), v1alpha1.ConditionScheduled))
		}
		if pods := w.pods("a"); len(pods) != 1 || pods[0].UID == pod.UID {
			return "the placeholder was not replaced"
		}
		return ""
	})
	w.waitEvent(v1alpha1.ReasonPlaceholderMismatch)
	next := w.pod("a")
	want := pod.Spec.Containers[0].Resources.Requests
	if got := next.Spec.Containers[0].Resources.Requests; !equality.Semantic.DeepEqual(got, want) || next.Spec.Affinity == nil {
		t.Errorf("got requests %v and affinity %v, want %v on the same node", got, next.Spec.Affinity, want)
	}
	if next.Spec.NodeName != node {
		t.Errorf("got a placeholder on node %q, want %s", next.Spec.NodeName, node)
	}
	w.always(func() string {
		if pods := w.pods("a"); len(pods) != 1 || pods[0].UID != next.UID {
			return "the new placeholder was replaced too"
		}
		return ""
	})
}

// A placeholder that lost its finalizer gets it back, before and after the Bottle
// has a node.
func TestUnheldPlaceholder(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	node, _ := w.node("a")
	w.create(builders.MakeBottle("a").Obj())
	strip := func() {
		t.Helper()
		pod := w.pod("a")
		w.must(w.c.Patch(t.Context(), pod.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))))
		w.eventually(func() string {
			if next := w.pod("a"); next.UID != pod.UID || !controllerutil.ContainsFinalizer(next, v1alpha1.FinalizerMachine) {
				return "the finalizer is not back"
			}
			return ""
		})
	}
	w.waitScheduled("a", "False Pending")
	strip()
	w.bind(w.pod("a"), node)
	w.waitScheduled("a", "True Scheduled")
	strip()
}

// Where something changes each placeholder, the condition says so, and the manager does
// not replace one after another without a pause.
func TestPlaceholdersThatAreChanged(t *testing.T) {
	w := newWorld(t)
	w.options.RefusalRetry = 5 * time.Second
	var created atomic.Int32
	w.start(interceptor.Funcs{Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
		if pod, ok := o.(*corev1.Pod); ok {
			created.Add(1)
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "sidecar", Image: "x"})
		}
		return c.Create(ctx, o, opts...)
	}})
	w.create(builders.MakeBottle("a").Obj())
	w.waitScheduled("a", "False PlaceholderMismatch")
	if got := message(w.bottle("a"), v1alpha1.ConditionScheduled); !strings.Contains(got, "exactly the container that the manager gives it") {
		t.Errorf("got message %q, want it to say what is wrong", got)
	}
	w.always(func() string {
		if n := created.Load(); n > 2 {
			return "one placeholder after the other is created"
		}
		return ""
	})
}
