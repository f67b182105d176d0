// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/story"
)

// placeholder returns the only placeholder Pod of a namespace, and nil while there is not
// exactly one.
func placeholder(t *testing.T, c *story.Cluster, namespace string) *corev1.Pod {
	t.Helper()
	pods := &corev1.PodList{}
	if err := c.List(t.Context(), pods, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	if len(pods.Items) != 1 {
		return nil
	}
	return &pods.Items[0]
}

// When a kubelet ends a placeholder, another one takes its place on the node, within the
// same quota, and the machine runs on. A job that deletes failed Pods destroys nothing, also
// while the manager waits because the second one ended too.
func TestEndedPlaceholderKeepsTheMachine(t *testing.T) {
	t.Parallel()
	c := connect(t)
	ns := c.Namespace(t)
	b := bottleOn("", ns, "ended", "ended")
	c.Apply(t, b)
	c.WaitRunning(t, b)
	pid, node := wantPID(t, b), story.NodeOf(b)
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "one", Namespace: ns},
		Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("1")}}}
	if err := c.Create(t.Context(), quota); err != nil {
		t.Fatal(err)
	}
	c.Eventually(t, "the quota to be counted", func() (string, bool) {
		err := c.Get(t.Context(), client.ObjectKeyFromObject(quota), quota)
		used := quota.Status.Used[corev1.ResourcePods]
		return fmt.Sprint(err, quota.Status), err == nil && used.Value() == 1
	})
	for round, wait := range []string{"", v1alpha1.ReasonPlaceholderEnded} {
		ended := placeholder(t, c, ns)
		if ended == nil {
			t.Fatalf("round %d: got no or several placeholder Pods, want one", round)
		}
		patch := []byte(`{"status":{"phase":"Failed","reason":"Evicted","message":"The node was low on resource: memory."}}`)
		if err := c.Status().Patch(t.Context(), ended.DeepCopy(), client.RawPatch(types.MergePatchType, patch)); err != nil {
			t.Fatal(err)
		}
		if wait != "" {
			c.WaitReason(t, b, v1alpha1.ConditionScheduled, wait)
		}
		if out, err := c.Kubectl(nil, "-n", ns, "delete", "pods", "--field-selector", "status.phase=Failed", "--wait=false"); err != nil {
			t.Fatalf("delete the failed Pods: %v\n%s", err, out)
		}
		c.Eventually(t, "another placeholder Pod to run on "+node, func() (string, bool) {
			next := placeholder(t, c, ns)
			return fmt.Sprint(next), next != nil && next.UID != ended.UID && next.Spec.NodeName == node && next.Status.Phase == corev1.PodRunning
		})
	}
	c.WaitReason(t, b, v1alpha1.ConditionScheduled, v1alpha1.ReasonScheduled)
	if !story.Running(b) || pidOf(b) != pid || story.NodeOf(b) != node {
		t.Errorf("got pid %d on %s, want %d on %s still running", pidOf(b), story.NodeOf(b), pid, node)
	}
}

// A Bottle that is placed on a node without room for a second machine, as the scheduler
// does while the placeholder of the first has ended, waits until the first has left.
func TestSecondBottleWaitsForRoom(t *testing.T) {
	c := connect(t)
	ns := c.Namespace(t)
	sized := func(name string) *v1alpha1.Bottle {
		b := bottleOn(node2, ns, name, name)
		memory := resource.MustParse("1Gi")
		b.Spec.Machine = &v1alpha1.Machine{Memory: &memory}
		return b
	}
	first, second := sized("first"), sized("second")
	c.Apply(t, first)
	c.WaitRunning(t, first)
	before := nodeOf(t, c, node2).Status.Allocatable.Memory().String()
	setMemory(t, c, "2000Mi")
	t.Cleanup(func() { setMemory(t, c, before) })
	c.Apply(t, second)
	c.WaitReason(t, second, v1alpha1.ConditionScheduled, v1alpha1.ReasonUnschedulable)
	pod := &corev1.Pod{}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: story.ID(second)}, pod); err != nil {
		t.Fatal(err)
	}
	if err := c.SubResource("binding").Create(t.Context(), pod, &corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: node2}}); err != nil {
		t.Fatal(err)
	}
	cond := c.WaitReason(t, second, v1alpha1.ConditionMachineReady, v1alpha1.ReasonNodeFull)
	if !strings.Contains(cond.Message, "of memory") {
		t.Errorf("message: got %q, want it to say what the node lacks", cond.Message)
	}
	if out := c.Exec(t, node2, "smolvm", "machine", "ls", "--json"); strings.Contains(out, story.ID(second)) {
		t.Errorf("machines of %s: got %s, want none of the second Bottle", node2, out)
	}
	c.DeleteAndWait(t, first)
	c.WaitRunning(t, second)
}

// setMemory sets how much memory node2 offers to Pods.
func setMemory(t *testing.T, c *story.Cluster, memory string) {
	t.Helper()
	patch := fmt.Appendf(nil, `{"status":{"allocatable":{"memory":%q},"capacity":{"memory":%q}}}`, memory, memory)
	if err := c.Status().Patch(context.Background(), nodeOf(t, c, node2), client.RawPatch(types.MergePatchType, patch)); err != nil {
		t.Fatal(err)
	}
}
