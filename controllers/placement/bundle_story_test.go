// SPDX-License-Identifier: Apache-2.0

package placement_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
)

// untouched fails the test if anything changes a Pod within a second.
func (w *world) untouched(name string, pod *corev1.Pod) {
	w.Helper()
	w.always(func() string {
		pods := w.pods(name)
		if len(pods) != 1 || pods[0].UID != pod.UID || pods[0].ResourceVersion != pod.ResourceVersion {
			return fmt.Sprintf("got Pods %v, want only %s as it was", pods, pod.Name)
		}
		return ""
	})
}

// A machine whose bundle is in the placeholder ends with it. So a change of spec.bundle
// replaces the Pod only once the agent says that the machine is down and awaits it.
func TestChangedBundleInPod(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	node, _ := w.node("a")
	w.placed(builders.MakeBottle("a").Obj(), node)
	w.takeOver("a")
	w.inPod("a", "")
	before := w.pod("a")
	b := w.bottle("a")
	b.Spec.Bundle = &v1alpha1.Bundle{Ports: []int32{8888, 9418}}
	metav1.SetMetaDataAnnotation(&b.ObjectMeta, v1alpha1.AnnotationRestartedAt, "now")
	w.must(w.c.Update(t.Context(), b))
	w.untouched("a", before)

	w.inPod("a", v1alpha1.ReasonPodOutdated)
	next := w.successor("a", before)
	if got := next.Spec.Containers[0].Ports; len(got) != 2 || next.Spec.NodeName != node {
		t.Errorf("got ports %v on node %q, want two on %s", got, next.Spec.NodeName, node)
	}
	w.waitEvent(v1alpha1.ReasonPodOutdated)
	w.waitScheduled("a", "True Scheduled")
	w.untouched("a", w.pod("a")) // although the status still says so
}

// Whatever the agent says, a Pod that has the current bundle stays, and so does that of a
// Bottle whose bundle Docker runs.
func TestPodThatNothingAwaits(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	node, _ := w.node("a")
	w.placed(builders.MakeBottle("a").Obj(), node)
	w.takeOver("a")
	pod := w.pod("a")
	w.inPod("a", v1alpha1.ReasonPodOutdated)
	w.untouched("a", pod)

	w.report("a", "Proven") // without status.bundle.runtime
	b := w.bottle("a")
	b.Spec.Bundle = &v1alpha1.Bundle{Ports: []int32{9418}}
	w.must(w.c.Update(t.Context(), b))
	w.untouched("a", pod)
}

// earlier makes a Pod like the one of a manager that knew no bundle in it.
func earlier(pod *corev1.Pod) *corev1.Pod {
	pod = pod.DeepCopy()
	pod.ObjectMeta = metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels, Annotations: pod.Annotations, Finalizers: pod.Finalizers, OwnerReferences: pod.OwnerReferences}
	delete(pod.Annotations, v1alpha1.AnnotationBundle)
	grace := int64(0)
	pod.Spec.TerminationGracePeriodSeconds, pod.Spec.Volumes, pod.Status = &grace, nil, corev1.PodStatus{}
	c := &pod.Spec.Containers[0]
	c.Name, c.Image, c.Command, c.Ports, c.VolumeMounts = "placeholder", "registry.k8s.io/pause:3.10", nil, nil, nil
	return pod
}

// A new manager leaves the placeholder of an earlier one alone while a machine may run
// with it. It replaces the Pod only if the agent awaits one with a bundle.
func TestPlaceholderOfAnEarlierManager(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	node, _ := w.node("a")
	w.placed(builders.MakeBottle("a").Obj(), node)
	w.takeOver("a")
	w.report("a", "Proven")
	w.stop()
	w.swap("a", node)
	pod := w.pod("a")

	w.start(interceptor.Funcs{})
	w.untouched("a", pod)
	w.waitScheduled("a", "True Scheduled")
	w.inPod("a", v1alpha1.ReasonPodOutdated)
	if next := w.successor("a", pod); next.Spec.Containers[0].Name != "bundle" || next.Spec.NodeName != node {
		t.Errorf("got container %s on node %q, want bundle on %s", next.Spec.Containers[0].Name, next.Spec.NodeName, node)
	}
}

// swap puts the Pod of an earlier manager in the place of a Bottle's placeholder.
func (w *world) swap(name, node string) {
	w.Helper()
	pod := w.pod(name)
	old := earlier(pod)
	w.must(w.c.Patch(w.Context(), pod.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))))
	w.must(w.c.Delete(w.Context(), pod, client.GracePeriodSeconds(0)))
	old.Spec.NodeName = node
	w.must(w.c.Create(w.Context(), old))
}

// A Pod that books too little is replaced at once only if no machine runs in it.
func TestShrunkPlaceholderWithItsMachine(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	node, _ := w.node("a")
	w.must(w.c.Status().Patch(t.Context(), w.readNode(node), client.RawPatch("application/merge-patch+json", []byte(`{"status":{"allocatable":{"cpu":"8","memory":"8Gi"}}}`))))
	w.placed(builders.MakeBottle("a").CPUs(4).Obj(), node)
	w.takeOver("a")
	w.inPod("a", "")
	less := `{"spec":{"containers":[{"name":"bundle","resources":{"requests":{"cpu":"1m"},"limits":{"cpu":"1m"}}}]}}`
	w.must(w.c.SubResource("resize").Patch(t.Context(), w.pod("a"), client.RawPatch("application/strategic-merge-patch+json", []byte(less))))
	w.eventually(func() string {
		if got := message(w.bottle("a"), v1alpha1.ConditionScheduled); !strings.Contains(got, "replaced once the Bottle is stopped") {
			return fmt.Sprintf("got message %q, want it to say when the Pod is replaced", got)
		}
		return ""
	})
	pod := w.pod("a")
	w.untouched("a", pod)
	w.inPod("a", v1alpha1.ReasonStopped)
	w.successor("a", pod)
	w.waitEvent(v1alpha1.ReasonPlaceholderMismatch)
}

// No Pod runs an image that the manager does not allow, and a Bottle that Docker serves
// does not need it.
func TestForbiddenBundleImage(t *testing.T) {
	w := newWorld(t)
	w.options.AllowedBundleImages = []string{"registry.test/*"}
	w.start(interceptor.Funcs{})
	w.create(builders.MakeBottle("a").BundleImage("other.test/bundle:1").Obj())
	w.waitScheduled("a", "False BundleImageNotAllowed")
	w.waitEvent(v1alpha1.ReasonBundleImageNotAllowed)
	if got := condition(w.bottle("a"), v1alpha1.ConditionReady); got != "False BundleImageNotAllowed" {
		t.Errorf("got Ready %s, want False BundleImageNotAllowed", got)
	}
	w.always(func() string { return strings.Join(w.images("a"), ", ") })

	b := w.bottle("a")
	*b.Spec.Bundle.Image = "registry.test/bundle:1"
	w.must(w.c.Update(t.Context(), b))
	w.waitScheduled("a", "False Pending")
	if got := w.images("a"); len(got) != 1 || got[0] != "registry.test/bundle:1" {
		t.Errorf("got images %v, want the allowed one", got)
	}
	b = w.bottle("a")
	*b.Spec.Bundle.Image = "other.test/bundle:1"
	w.must(w.c.Update(t.Context(), b))
	w.waitScheduled("a", "False BundleImageNotAllowed")
	w.eventually(func() string { return strings.Join(w.images("a"), ", ") })

	node, _ := w.node("a")
	w.placed(builders.MakeBottle("docker").Obj(), node)
	w.takeOver("docker")
	status := reported("docker", "Proven")
	status.Bundle = &v1alpha1.BundleStatus{Name: "bottle-docker"}
	w.apply("docker", status)
	b = w.bottle("docker")
	image := "other.test/bundle:1"
	b.Spec.Bundle = &v1alpha1.Bundle{Image: &image}
	w.must(w.c.Update(t.Context(), b))
	pod := w.pod("docker")
	w.end(pod, "Failed", "Evicted")
	w.successor("docker", pod)
	if got := w.images("docker"); len(got) != 1 || got[0] != w.options.BundleImage {
		t.Errorf("got images %v, want the built-in bundle's, which nothing uses", got)
	}
}

// A Pod is made before it is known which runtime its node has. Where Docker runs the bundle,
// the Pod does not go on running its image, too, and the machine is not disturbed.
func TestForeignImageBesideDocker(t *testing.T) {
	w := newWorld(t)
	w.options.AllowedBundleImages = []string{"registry.test/*"}
	w.start(interceptor.Funcs{})
	node, _ := w.node("a")
	w.placed(builders.MakeBottle("a").BundleImage("registry.test/bundle:1").Obj(), node)
	w.takeOver("a")
	pod := w.pod("a")
	if got := pod.Spec.Containers[0].Image; got != "registry.test/bundle:1" {
		t.Errorf("before the agent's report: got image %s, want the foreign one", got)
	}
	w.untouched("a", pod)
	status := reported("a", "Proven")
	status.Bundle = &v1alpha1.BundleStatus{Name: "bottle-a", Runtime: ptr.To(v1alpha1.BundleRuntimeDocker)}
	w.apply("a", status)
	next := w.successor("a", pod)
	if got := next.Spec.Containers[0].Image; got != w.options.BundleImage || next.Spec.NodeName != node {
		t.Errorf("got image %s on node %q, want the built-in bundle's on %s", got, next.Spec.NodeName, node)
	}
	w.waitEvent(v1alpha1.ReasonPodOutdated)
	w.waitScheduled("a", "True Scheduled")
	w.untouched("a", w.pod("a"))
}

// images returns the images of a Bottle's placeholders.
func (w *world) images(name string) []string {
	w.Helper()
	var images []string
	for _, pod := range w.pods(name) {
		images = append(images, pod.Spec.Containers[0].Image)
	}
	return images
}

// In a namespace of PodSecurity's level restricted, the built-in bundle runs as it is. For
// another image, the message says what it needs.
func TestBundleAndPodSecurity(t *testing.T) {
	w := newWorld(t)
	w.enforce("restricted")
	w.options.AllowedBundleImages = []string{"*"}
	w.start(interceptor.Funcs{})
	w.create(builders.MakeBottle("built-in").Obj())
	w.waitScheduled("built-in", "False Pending")
	w.create(builders.MakeBottle("foreign").BundleImage("bundle:1").Obj())
	w.waitScheduled("foreign", "False PlaceholderRefused")
	if got := message(w.bottle("foreign"), v1alpha1.ConditionScheduled); !strings.Contains(got, "enforce=baseline") {
		t.Errorf("got message %q, want it to name the level that the image needs", got)
	}
	w.enforce("baseline")
	w.waitScheduled("foreign", "False Pending")
}
