// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/freshness"
	"botbottle.dev/bottle-operator/internal/placeholder"
	"botbottle.dev/bottle-operator/test/api/apienv"
	"botbottle.dev/bottle-operator/test/builders"
)

// oldView is a reconciler whose cache shows what the test sets, in front of a
// real API server that has newer objects.
type oldView struct {
	*testing.T
	c      client.WithWatch
	ns     string
	r      *bottles
	bottle *v1alpha1.Bottle
	pods   []corev1.Pod
}

func newOldView(t *testing.T) *oldView {
	t.Helper()
	t.Parallel()
	v := &oldView{T: t, c: apienv.Client(t, apienv.Start(t))}
	v.ns = apienv.Namespace(t, v.c)
	options := DefaultOptions()
	options.BundleImage = "registry.test/bottle-operator:1.2.3"
	options.Namespace = apienv.SystemNamespace
	options.Registerer = prometheus.NewRegistry()
	v.must(options.validate())
	verdicts := newVerdicts()
	m, err := registerMetrics(options.Registerer, v.c, verdicts)
	v.must(err)
	cached := interceptor.NewClient(v.c, interceptor.Funcs{
		Get: func(_ context.Context, _ client.WithWatch, key client.ObjectKey, o client.Object, _ ...client.GetOption) error {
			b, ok := o.(*v1alpha1.Bottle)
			if !ok || v.bottle == nil {
				return apierrors.NewNotFound(v1alpha1.GroupVersion.WithResource("bottles").GroupResource(), key.Name)
			}
			v.bottle.DeepCopyInto(b)
			return nil
		},
		List: func(_ context.Context, _ client.WithWatch, list client.ObjectList, _ ...client.ListOption) error {
			if pods, ok := list.(*corev1.PodList); ok {
				pods.Items = v.pods
			}
			return nil
		},
	})
	v.r = &bottles{Client: cached, live: v.c, recorder: events.NewFakeRecorder(10), options: options, verdicts: verdicts, metrics: m, written: &freshness.Writes{},
		replaced: newReplacements(options.Clock, options.RefusalRetry)}
	return v
}

func (v *oldView) must(err error) {
	v.Helper()
	if err != nil {
		v.Fatal(err)
	}
}

// make creates a Bottle and its placeholder on a node, and returns both.
func (v *oldView) make(node string) (*v1alpha1.Bottle, *corev1.Pod) {
	v.Helper()
	b := builders.MakeBottle("a").Namespace(v.ns).Finalizer(v1alpha1.FinalizerNode).Obj()
	v.must(v.c.Create(v.Context(), b))
	pod, err := placeholder.Render(b, placeholder.Resources(b, v.r.options.Options), "", v.r.options.Options)
	v.must(err)
	pod.Spec.NodeName = node
	v.must(v.c.Create(v.Context(), pod))
	return b, pod
}

// setNode writes status.nodeName, "" for none.
func (v *oldView) setNode(b *v1alpha1.Bottle, node string) {
	v.Helper()
	b.Status.NodeName = nil
	if node != "" {
		b.Status.NodeName = &node
	}
	v.must(v.c.Status().Update(v.Context(), b))
}

// pass makes one pass and expects it to be retried, because the view is old.
func (v *oldView) pass() {
	v.Helper()
	result, err := v.r.Reconcile(v.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Namespace: v.ns, Name: "a"}})
	if err != nil || result.RequeueAfter != staleRetry {
		v.Errorf("got %v, %v, want the pass to be retried", result, err)
	}
}

func (v *oldView) wantNode(want string) {
	v.Helper()
	b := &v1alpha1.Bottle{}
	v.must(v.c.Get(v.Context(), client.ObjectKey{Namespace: v.ns, Name: "a"}, b))
	if got := ptr.Deref(b.Status.NodeName, ""); got != want {
		v.Errorf("got node %q, want %q", got, want)
	}
}

func (v *oldView) wantHeld(pod *corev1.Pod) {
	v.Helper()
	got := &corev1.Pod{}
	v.must(v.c.Get(v.Context(), client.ObjectKeyFromObject(pod), got))
	if got.UID != pod.UID || !controllerutil.ContainsFinalizer(got, v1alpha1.FinalizerMachine) {
		v.Errorf("got Pod %s with finalizers %v, want it held", got.UID, got.Finalizers)
	}
}

// The view is older than the assignment of the Bottle's node. Its Pod was
// drained.
func TestOldViewDoesNotReleaseThePod(t *testing.T) {
	v := newOldView(t)
	b, pod := v.make("node-a")
	v.bottle = b.DeepCopy()
	v.setNode(b, "node-a")
	v.must(v.c.Delete(t.Context(), pod))
	v.must(v.c.Get(t.Context(), client.ObjectKeyFromObject(pod), pod))
	v.pods = []corev1.Pod{*pod}
	v.pass()
	v.wantHeld(pod)
	v.wantNode("node-a")
}

// The view is older than the agent's removal of the node.
func TestOldViewDoesNotRestoreTheNode(t *testing.T) {
	for name, on := range map[string]string{"placed": "node-a", "not yet placed": ""} {
		t.Run(name, func(t *testing.T) {
			v := newOldView(t)
			b, pod := v.make("node-a")
			v.setNode(b, on)
			v.bottle, v.pods = b.DeepCopy(), []corev1.Pod{*pod}
			v.setNode(b, "node-a")
			v.setNode(b, "")
			v.pass()
			v.wantNode("")
		})
	}
}

// The view is older than the Bottle.
func TestOldViewDoesNotRemoveThePodAsStray(t *testing.T) {
	v := newOldView(t)
	_, pod := v.make("node-a")
	v.pods = []corev1.Pod{*pod}
	v.pass()
	v.wantHeld(pod)
}

// The last verdict says that the node is lost, but the node is back.
func TestOldVerdictDoesNotClear(t *testing.T) {
	for name, deleted := range map[string]bool{"running": false, "deleted": true} {
		t.Run(name, func(t *testing.T) {
			v := newOldView(t)
			node := &corev1.Node{}
			node.GenerateName = "back-"
			v.must(v.c.Create(t.Context(), node))
			t.Cleanup(func() { _ = v.c.Delete(context.Background(), node) })
			b, pod := v.make(node.Name)
			v.setNode(b, node.Name)
			if deleted {
				v.must(v.c.Delete(t.Context(), b))
				v.must(v.c.Get(t.Context(), client.ObjectKeyFromObject(b), b))
			}
			v.bottle, v.pods = b, []corev1.Pod{*pod}
			v.r.verdicts.set(node.Name, nodeFacts{gone: true, agentLost: true})
			v.pass()
			v.wantHeld(pod)
			v.wantNode(node.Name)
			v.must(v.c.Get(t.Context(), client.ObjectKeyFromObject(b), b))
			if !controllerutil.ContainsFinalizer(b, v1alpha1.FinalizerNode) {
				t.Error("got the agent's finalizer removed, want it kept")
			}
		})
	}
}

// The view is older than the assignment of a node to the deleted Bottle.
func TestOldViewDoesNotDropTheFinalizer(t *testing.T) {
	v := newOldView(t)
	b, pod := v.make("node-a")
	v.must(v.c.Delete(t.Context(), b))
	v.must(v.c.Get(t.Context(), client.ObjectKeyFromObject(b), b))
	v.bottle, v.pods = b.DeepCopy(), []corev1.Pod{*pod}
	v.setNode(b, "node-a")
	v.pass()
	v.must(v.c.Get(t.Context(), client.ObjectKeyFromObject(b), b))
	if !controllerutil.ContainsFinalizer(b, v1alpha1.FinalizerNode) {
		t.Error("got the agent's finalizer removed, want it kept")
	}
}

// The view is older than the agent's start of the machine in the placeholder: a spec that
// was changed back made that Pod the right one.
func TestOldViewDoesNotReplaceThePodOfAMachine(t *testing.T) {
	v := newOldView(t)
	b, pod := v.make("node-a")
	b.Status.Bundle = &v1alpha1.BundleStatus{Name: pod.Name, Runtime: ptr.To(v1alpha1.BundleRuntimePod)}
	for _, condition := range []string{v1alpha1.ConditionBundleReady, v1alpha1.ConditionReady} {
		meta.SetStatusCondition(&b.Status.Conditions, metav1.Condition{Type: condition, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonPodOutdated, Message: "test", LastTransitionTime: metav1.Now()})
	}
	v.setNode(b, "node-a")
	v.bottle, v.pods = b.DeepCopy(), []corev1.Pod{*pod}
	v.bottle.Spec.Bundle = &v1alpha1.Bundle{Ports: []int32{9418}}
	meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionBundleReady).Status = metav1.ConditionTrue
	v.setNode(b, "node-a")
	v.pass()
	v.wantHeld(pod)
}
