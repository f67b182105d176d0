// SPDX-License-Identifier: Apache-2.0

package placement_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
)

// end ends a Pod, as a kubelet does.
func (w *world) end(pod *corev1.Pod, phase corev1.PodPhase, reason string) {
	w.Helper()
	w.patchPodStatus(pod, fmt.Sprintf(`{"status":{"phase":%q,"reason":%q}}`, phase, reason))
}

func (w *world) patchPodStatus(pod *corev1.Pod, patch string) {
	w.Helper()
	w.must(w.c.Status().Patch(w.Context(), pod.DeepCopy(), client.RawPatch("application/strategic-merge-patch+json", []byte(patch))))
}

// successor waits until another Pod has taken the place of pod.
func (w *world) successor(name string, pod *corev1.Pod) *corev1.Pod {
	w.Helper()
	var next *corev1.Pod
	w.eventually(func() string {
		pods := w.pods(name)
		if len(pods) != 1 || pods[0].UID == pod.UID {
			return "the placeholder was not replaced"
		}
		next = &pods[0]
		return ""
	})
	return next
}

// removeFailed deletes the failed Pods of the namespace, as the usual nightly job does.
func (w *world) removeFailed() {
	w.Helper()
	w.must(w.c.DeleteAllOf(w.Context(), &corev1.Pod{}, client.InNamespace(w.ns), client.MatchingFields{"status.phase": "Failed"}))
}

// stays fails the test if a Bottle is evicted within a second.
func (w *world) stays(name string) {
	w.Helper()
	w.always(func() string {
		b := w.bottle(name)
		if got := condition(b, v1alpha1.ConditionScheduled); !strings.HasPrefix(got, "True ") || b.Status.NodeName == nil {
			return fmt.Sprintf("got Scheduled %s (%s), want the machine to keep running", got, message(b, v1alpha1.ConditionScheduled))
		}
		return ""
	})
}

// However a placeholder ends, another one takes its place on the same node, and only then
// is the ended one removed. The Bottle stays where it is.
func TestEndedPlaceholder(t *testing.T) {
	w := newWorld(t)
	var early atomic.Int32
	w.start(interceptor.Funcs{Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
		if pods := w.pods("a"); len(pods) == 1 && pods[0].UID == o.GetUID() {
			early.Add(1)
		}
		return c.Delete(ctx, o, opts...)
	}})
	node, _ := w.node("a")
	w.placed(builders.MakeBottle("a").CPUs(3).NodeSelector("disk", "fast").Obj(), node)
	w.takeOver("a")
	w.report("a", "Proven")
	pod := w.pod("a")
	for _, end := range []struct {
		phase  corev1.PodPhase
		reason string
	}{
		{"Failed", "Evicted"}, {"Failed", "Terminated"}, {"Failed", "NodeShutdown"}, {"Failed", "OutOfcpu"}, {"Failed", "OutOfbotbottle.dev/bottle"},
		{"Failed", "UnexpectedAdmissionError"}, {"Failed", "NodeAffinity"}, {"Failed", "Preempting"}, {"Failed", ""}, {"Succeeded", ""},
	} {
		w.end(pod, end.phase, end.reason)
		next := w.successor("a", pod)
		if next.Spec.NodeName != node {
			t.Errorf("%s: got a Pod on node %q, want %s", end, next.Spec.NodeName, node)
		}
		if got, want := next.Spec.Containers[0].Resources, pod.Spec.Containers[0].Resources; !equality.Semantic.DeepEqual(got, want) {
			t.Errorf("%s: got requests %v, want %v", end, got, want)
		}
		pod = next
	}
	w.waitScheduled("a", "True Scheduled")
	w.stays("a")
	w.waitEvent(v1alpha1.ReasonPlaceholderEnded)
	if n := early.Load(); n > 0 {
		t.Errorf("%d ended Pods were deleted before another one existed, want none", n)
	}
}

// Deleting a Pod that has ended removes nothing, whether or not a manager runs meanwhile,
// and also while the manager waits before it creates another one.
func TestDeletedEndedPlaceholder(t *testing.T) {
	for name, order := range map[string]func(w *world){
		"after a new one exists": func(w *world) {
			pod := w.pod("a")
			w.end(pod, "Failed", "Evicted")
			w.successor("a", pod)
			w.removeFailed()
		},
		"before the manager notices": func(w *world) {
			w.stop()
			w.end(w.pod("a"), "Failed", "")
			w.removeFailed()
			w.start(interceptor.Funcs{})
		},
		"through the eviction API": func(w *world) { // as a descheduler does
			w.stop()
			pod := w.pod("a")
			w.end(pod, "Failed", "OutOfcpu")
			w.must(w.c.SubResource("eviction").Create(w.Context(), pod, &policyv1.Eviction{}))
			w.start(interceptor.Funcs{})
		},
		"during a pause": func(w *world) {
			pod := w.pod("a")
			w.end(pod, "Failed", "Evicted")
			next := w.successor("a", pod)
			w.end(next, "Failed", "")
			w.waitScheduled("a", "True PlaceholderEnded")
			w.removeFailed()
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if name == "during a pause" {
				w.options.FirstPause, w.options.LongestPause = time.Hour, time.Hour
			}
			w.start(interceptor.Funcs{})
			node, _ := w.node("a")
			w.placed(builders.MakeBottle("a").Obj(), node)
			w.takeOver("a")
			order(w)
			w.stays("a")
			if name == "during a pause" {
				return
			}
			w.waitScheduled("a", "True Scheduled")
			if pod := w.pod("a"); pod.Status.Phase == "Failed" || pod.Spec.NodeName != node {
				t.Errorf("got Pod %s (%s) on %q, want a new one on %s", pod.Name, pod.Status.Phase, pod.Spec.NodeName, node)
			}
		})
	}
}

// A placeholder that was made to leave its node before it ended takes the machine along,
// even if the manager sees only the result. The condition says what happened.
func TestRealEvictions(t *testing.T) {
	condition := func(reason string) string {
		return `{"status":{"conditions":[{"type":"DisruptionTarget","status":"True","reason":"` + reason + `"}]}}`
	}
	kill := func(w *world, pod *corev1.Pod) {
		w.must(w.c.Get(w.Context(), client.ObjectKeyFromObject(pod), pod))
		w.patchPodStatus(pod, `{"status":{"phase":"Failed","containerStatuses":[{"name":"placeholder","image":"x","imageID":"x","ready":false,"restartCount":0,"state":{"terminated":{"exitCode":2,"finishedAt":"`+
			pod.DeletionTimestamp.Add(time.Second).UTC().Format(time.RFC3339)+`"}}}]}}`)
	}
	for name, tc := range map[string]struct {
		evict func(w *world, pod *corev1.Pod)
		want  string // in the message
	}{
		"drain": {func(w *world, pod *corev1.Pod) {
			w.must(w.c.SubResource("eviction").Create(w.Context(), pod, &policyv1.Eviction{}))
		}, "evicted through the API"},
		"preemption": {func(w *world, pod *corev1.Pod) {
			w.patchPodStatus(pod, condition("PreemptionByScheduler"))
			w.must(w.c.Delete(w.Context(), pod))
		}, "preempted by kube-scheduler"},
		"NoExecute taint": {func(w *world, pod *corev1.Pod) {
			w.patchPodStatus(pod, condition("DeletionByTaintManager"))
			w.must(w.c.Delete(w.Context(), pod))
		}, "NoExecute taint"},
		"a person": {func(w *world, pod *corev1.Pod) { w.must(w.c.Delete(w.Context(), pod)) }, "was deleted"},
	} {
		for when, running := range map[string]bool{"seen": true, "unseen": false} {
			t.Run(name+"/"+when, func(t *testing.T) {
				w := newWorld(t)
				w.start(interceptor.Funcs{})
				node, _ := w.node("a")
				w.placed(builders.MakeBottle("a").Obj(), node)
				w.takeOver("a")
				pod := w.pod("a")
				w.patchPodStatus(pod, `{"status":{"phase":"Running"}}`)
				if !running {
					w.stop()
				}
				tc.evict(w, pod)
				if running {
					w.waitScheduled("a", "False Evicted")
				}
				kill(w, pod)
				if !running {
					w.start(interceptor.Funcs{})
				}
				w.waitScheduled("a", "False Evicted")
				if got := message(w.bottle("a"), v1alpha1.ConditionScheduled); !strings.Contains(got, tc.want) || !strings.Contains(got, "with its disk") {
					t.Errorf("got message %q, want it to say %q and what it means", got, tc.want)
				}
				w.leave("a")
				next := w.successor("a", pod)
				if next.Spec.NodeName != "" || next.Spec.Affinity != nil {
					t.Errorf("got a Pod on %q with affinity %v, want one for any node", next.Spec.NodeName, next.Spec.Affinity)
				}
				if ended := next.Annotations["botbottle.dev/ended-placeholders"]; next.Name != pod.Name || ended != "" {
					t.Errorf("got Pod %s after %q ended ones, want %s after none: an eviction is no failure", next.Name, ended, pod.Name)
				}
			})
		}
	}
}

// A node that fails each placeholder gets the next one after a growing pause. A restart of
// the manager does not shorten the pause.
func TestPausesBetweenPlaceholders(t *testing.T) {
	w := newWorld(t)
	w.options.FirstPause, w.options.LongestPause = time.Hour, time.Hour
	w.start(interceptor.Funcs{})
	node, _ := w.node("a")
	w.placed(builders.MakeBottle("a").Obj(), node)
	w.takeOver("a")
	first := w.pod("a")
	w.end(first, "Failed", "Evicted")
	second := w.successor("a", first)
	w.waitScheduled("a", "True Scheduled")
	w.end(second, "Failed", "OutOfmemory")
	w.waitScheduled("a", "True PlaceholderEnded")
	if got := message(w.bottle("a"), v1alpha1.ConditionScheduled); !strings.Contains(got, second.Name) || !strings.Contains(got, "Failed, OutOfmemory") {
		t.Errorf("got message %q, want it to name Pod %s and how it ended", got, second.Name)
	}
	w.stop()
	w.start(interceptor.Funcs{})
	w.newGeneration("a", 2) // the new manager makes a pass
	w.always(func() string {
		if pods := w.pods("a"); len(pods) != 1 || pods[0].UID != second.UID {
			return "another placeholder was created without a pause"
		}
		return ""
	})
	w.stop()
	w.options.FirstPause, w.options.LongestPause = 50*time.Millisecond, time.Hour
	w.start(interceptor.Funcs{})
	third := w.successor("a", second)
	w.waitScheduled("a", "True Scheduled")
	if third.Name != first.Name || third.Annotations["botbottle.dev/ended-placeholders"] != "2" {
		t.Errorf("got Pod %s with annotations %v, want %s, which counts 2 before it", third.Name, third.Annotations, first.Name)
	}
}

// A former placeholder may stay for a while because something else keeps it, such as a
// queue with a finalizer. It is not taken for a successor, and the Bottle says why it has
// none.
func TestFormerPlaceholderThatStays(t *testing.T) {
	w := newWorld(t)
	w.options.LongestPause = time.Hour // none of the placeholders lasts
	w.start(interceptor.Funcs{})
	node, _ := w.node("a")
	w.placed(builders.MakeBottle("a").Obj(), node)
	w.takeOver("a")
	const foreign = "example.com/queue"
	first := w.pod("a")
	w.must(w.c.Patch(w.Context(), first.DeepCopy(), client.RawPatch("application/strategic-merge-patch+json", []byte(`{"metadata":{"finalizers":["`+foreign+`"]}}`))))
	w.end(first, "Failed", "Evicted")
	var second *corev1.Pod
	w.eventually(func() string {
		for _, pod := range w.pods("a") {
			if pod.Name != first.Name {
				second = &pod
				return ""
			}
		}
		return "the placeholder has no successor"
	})
	w.end(second, "Failed", "OutOfmemory")
	w.waitScheduled("a", "True PlaceholderEnded")
	w.eventually(func() string {
		if got := message(w.bottle("a"), v1alpha1.ConditionScheduled); !strings.Contains(got, "Pod "+second.Name) || !strings.Contains(got, first.Name+" has ended too, and is still there") {
			return fmt.Sprintf("got message %q, want it to name both Pods", got)
		}
		return ""
	})
	w.must(w.c.Patch(w.Context(), first.DeepCopy(), client.RawPatch("application/strategic-merge-patch+json", []byte(`{"metadata":{"$deleteFromPrimitiveList/finalizers":["`+foreign+`"]}}`))))
	third := w.successor("a", second)
	w.waitScheduled("a", "True Scheduled")
	if third.Name != first.Name || third.Annotations["botbottle.dev/ended-placeholders"] != "2" {
		t.Errorf("got Pod %s with annotations %v, want %s, which counts 2 before it", third.Name, third.Annotations, first.Name)
	}
}

// Two managers for a moment, such as one that has just ceased to lead and its successor, may
// each create a placeholder. When one removes the surplus Pod while the other restores its
// finalizer, the Bottle stays on its node.
func TestSurplusPlaceholder(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	node, _ := w.node("a")
	w.placed(builders.MakeBottle("a").Obj(), node)
	w.takeOver("a")
	own := w.pod("a")
	w.stop()
	time.Sleep(time.Until(own.CreationTimestamp.Add(time.Second))) // times have no fractions
	surplus := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: own.Namespace, Name: own.Name + "-2", Labels: own.Labels, Annotations: own.Annotations,
		Finalizers: own.Finalizers, OwnerReferences: own.OwnerReferences,
	}, Spec: own.Spec}
	w.must(w.c.Create(w.Context(), surplus))
	var restored atomic.Bool
	w.start(interceptor.Funcs{Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
		if o.GetUID() == surplus.UID && !restored.Swap(true) {
			if err := w.c.Patch(ctx, surplus.DeepCopy(), client.RawPatch("application/strategic-merge-patch+json", []byte(`{"metadata":{"finalizers":["`+v1alpha1.FinalizerMachine+`"]}}`))); err != nil {
				return err
			}
		}
		return c.Delete(ctx, o, opts...)
	}})
	w.eventually(func() string {
		if pods := w.pods("a"); len(pods) != 1 || pods[0].UID != own.UID || !restored.Load() {
			return fmt.Sprintf("got %d placeholders, want one of the two", len(pods))
		}
		return ""
	})
	w.stays("a")
}

// A Bottle whose placeholder ends before it has a node gets another one, after growing
// pauses too.
func TestEndedBeforePlacement(t *testing.T) {
	w := newWorld(t)
	w.options.FirstPause, w.options.LongestPause = time.Hour, time.Hour
	w.start(interceptor.Funcs{})
	w.create(builders.MakeBottle("a").Obj())
	w.waitScheduled("a", "False Pending")
	first := w.pod("a")
	w.end(first, "Failed", "NodeAffinity")
	second := w.successor("a", first)
	if second.Spec.NodeName != "" || second.Spec.Affinity != nil {
		t.Errorf("got a Pod on %q with affinity %v, want one for any node", second.Spec.NodeName, second.Spec.Affinity)
	}
	w.waitEvent(v1alpha1.ReasonPlaceholderEnded)
	w.end(second, "Succeeded", "")
	w.waitScheduled("a", "False PlaceholderEnded")
	if node := w.bottle("a").Status.NodeName; node != nil {
		t.Errorf("got node %s, want none", *node)
	}
}

// Where something refuses Pods that name their node, the scheduler binds the new one.
func TestSuccessorThatTheSchedulerBinds(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
		if pod, ok := o.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
			return apierrors.NewForbidden(corev1.Resource("pods"), pod.Name, fmt.Errorf("spec.nodeName is not allowed"))
		}
		return c.Create(ctx, o, opts...)
	}})
	node, _ := w.node("a")
	w.placed(builders.MakeBottle("a").Obj(), node)
	w.takeOver("a")
	pod := w.pod("a")
	w.end(pod, "Failed", "Evicted")
	next := w.successor("a", pod)
	terms := next.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if next.Spec.NodeName != "" || len(terms) != 1 || terms[0].MatchFields[0].Values[0] != node {
		t.Errorf("got node %q and terms %v, want a Pod that only %s can get", next.Spec.NodeName, terms, node)
	}
	w.bind(next, node)
	w.stays("a")
}

// A quota does not count the ended Pod, so the new one fits into it.
func TestSuccessorWithinAQuota(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	node, _ := w.node("a")
	w.placed(builders.MakeBottle("a").Obj(), node)
	w.takeOver("a")
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "one"}}
	quota.Spec.Hard = corev1.ResourceList{corev1.ResourceRequestsCPU: *resourceOf("3")}
	w.must(w.c.Create(t.Context(), quota))
	// No quota controller runs here, so the test counts, as it does.
	quota.Status.Hard, quota.Status.Used = quota.Spec.Hard, corev1.ResourceList{corev1.ResourceRequestsCPU: *resourceOf("2350m")}
	w.must(w.c.Status().Update(t.Context(), quota))
	pod := w.pod("a")
	w.end(pod, "Failed", "Evicted")
	w.waitScheduled("a", "True PlaceholderEnded") // the full quota is not yet counted anew
	if got := message(w.bottle("a"), v1alpha1.ConditionScheduled); !strings.Contains(got, "exceeded quota") {
		t.Errorf("got message %q, want the API server's", got)
	}
	w.stays("a")
	w.must(w.c.Get(t.Context(), client.ObjectKeyFromObject(quota), quota))
	quota.Status.Used = corev1.ResourceList{corev1.ResourceRequestsCPU: *resourceOf("0")}
	w.must(w.c.Status().Update(t.Context(), quota))
	next := w.successor("a", pod)
	if next.Spec.NodeName == "" { // the quota had room only for the second attempt
		w.bind(next, node)
	}
	w.stays("a")
}

// A node that rejects the placeholder of a new Bottle gets no machine of it before it
// accepts one: the condition keeps the agent from creating the machine.
func TestRejectedBeforeTheMachine(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	node, _ := w.node("a")
	w.placed(builders.MakeBottle("a").Obj(), node)
	pod := w.pod("a")
	w.end(pod, "Failed", "OutOfcpu")
	next := w.successor("a", pod)
	w.waitScheduled("a", "True PlaceholderEnded")
	if got := message(w.bottle("a"), v1alpha1.ConditionScheduled); !strings.Contains(got, next.Name) || !strings.Contains(got, "no machine starts") {
		t.Errorf("got message %q, want it to name Pod %s and to say what waits", got, next.Name)
	}
	w.patchPodStatus(next, `{"status":{"phase":"Running"}}`)
	w.waitScheduled("a", "True Scheduled")
}
