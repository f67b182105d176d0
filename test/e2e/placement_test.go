// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/story"
)

func TestSchedulerSpreadsBottles(t *testing.T) {
	t.Parallel()
	c := connect(t)
	ns := c.Namespace(t)
	var bottles []*v1alpha1.Bottle
	for i := range 4 {
		bottles = append(bottles, bottleOn("", ns, fmt.Sprintf("spread-%d", i), fmt.Sprintf("spread-%d", i)))
	}
	for _, b := range bottles {
		b.Labels = map[string]string{"group": "spread"}
		b.Spec.Scheduling = &v1alpha1.Scheduling{TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule,
			LabelSelector: &metav1.LabelSelector{MatchLabels: b.Labels},
		}}}
	}
	c.Apply(t, bottles...)
	c.WaitRunning(t, bottles...)
	count := map[string]int{}
	for _, b := range bottles {
		count[story.NodeOf(b)]++
	}
	if count[node1] != 2 || count[node2] != 2 {
		t.Errorf("four Bottles on two nodes: got %v, want two on each", count)
	}
}

func TestNodeSelectorAndTaint(t *testing.T) {
	c := connect(t)
	ns := c.Namespace(t)
	changeNode(t, c, node2, func(n *corev1.Node) {
		n.Labels["disk"] = "fast"
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "reserved", Value: "yes", Effect: corev1.TaintEffectNoSchedule})
	})
	t.Cleanup(func() {
		changeNode(t, c, node2, func(n *corev1.Node) {
			delete(n.Labels, "disk")
			n.Spec.Taints = withoutTaint(n.Spec.Taints, "reserved")
		})
	})
	plain := bottleOn("", ns, "plain", "plain")
	fast := bottleOn("", ns, "fast", "fast")
	fast.Spec.Scheduling = &v1alpha1.Scheduling{
		NodeSelector: map[string]string{"disk": "fast"},
		Tolerations:  []corev1.Toleration{{Key: "reserved", Operator: corev1.TolerationOpExists}},
	}
	untolerant := bottleOn("", ns, "untolerant", "untolerant")
	untolerant.Spec.Scheduling = &v1alpha1.Scheduling{NodeSelector: map[string]string{"disk": "fast"}}
	c.Apply(t, plain, fast, untolerant)
	c.WaitRunning(t, plain, fast)
	if got := story.NodeOf(plain); got != node1 {
		t.Errorf("a Bottle without toleration: got node %s, want %s", got, node1)
	}
	if got := story.NodeOf(fast); got != node2 {
		t.Errorf("a Bottle with the selector and toleration: got node %s, want %s", got, node2)
	}
	cond := c.WaitReason(t, untolerant, v1alpha1.ConditionScheduled, v1alpha1.ReasonUnschedulable)
	if !strings.Contains(cond.Message, "untolerated taint") {
		t.Errorf("message of an unschedulable Bottle: got %q, want the scheduler's message", cond.Message)
	}
	changeNode(t, c, node2, func(n *corev1.Node) { n.Spec.Taints = withoutTaint(n.Spec.Taints, "reserved") })
	c.WaitRunning(t, untolerant)
}

func TestImpossibleBottleIsReported(t *testing.T) {
	t.Parallel()
	c := connect(t)
	b := bottleOn("", c.Namespace(t), "huge", "huge")
	memory := resource.MustParse("1Ti")
	b.Spec.Machine = &v1alpha1.Machine{Memory: &memory}
	c.Apply(t, b)
	cond := c.WaitReason(t, b, v1alpha1.ConditionScheduled, v1alpha1.ReasonUnschedulable)
	if !strings.Contains(cond.Message, "Insufficient memory") {
		t.Errorf("message: got %q, want the scheduler's Insufficient memory", cond.Message)
	}
	if ready := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionReady); ready == nil || ready.Status != metav1.ConditionFalse {
		t.Errorf("Ready of an unschedulable Bottle: got %v, want False", ready)
	}
	c.DeleteAndWait(t, b)
}

func TestQuotaIsReportedAndRecovers(t *testing.T) {
	t.Parallel()
	c := connect(t)
	ns := c.Namespace(t)
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "none", Namespace: ns},
		Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0")}}}
	if err := c.Create(t.Context(), quota); err != nil {
		t.Fatal(err)
	}
	c.Eventually(t, "the quota to take effect", func() (string, bool) {
		err := c.Get(t.Context(), client.ObjectKeyFromObject(quota), quota)
		return fmt.Sprint(err, quota.Status), err == nil && len(quota.Status.Hard) > 0
	})
	b := bottleOn("", ns, "over", "over")
	c.Apply(t, b)
	cond := c.WaitReason(t, b, v1alpha1.ConditionScheduled, v1alpha1.ReasonPlaceholderRefused)
	if !strings.Contains(cond.Message, "exceeded quota") {
		t.Errorf("message: got %q, want the API server's message", cond.Message)
	}
	if err := c.Delete(t.Context(), quota); err != nil {
		t.Fatal(err)
	}
	c.WaitRunning(t, b)
}

// A drained placeholder keeps its resources reserved until the machine is torn down.
// Then the Bottle moves to another node.
func TestEvictedBottleMovesAfterTeardown(t *testing.T) {
	c := connect(t)
	b := bottleOn("", c.Namespace(t), "drained", "drained")
	c.Apply(t, b)
	c.WaitRunning(t, b)
	from := story.NodeOf(b)
	changeNode(t, c, from, func(n *corev1.Node) { n.Spec.Unschedulable = true })
	t.Cleanup(func() { changeNode(t, c, from, func(n *corev1.Node) { n.Spec.Unschedulable = false }) })
	pods := &corev1.PodList{}
	if err := c.List(t.Context(), pods, client.InNamespace(b.Namespace)); err != nil || len(pods.Items) != 1 {
		t.Fatalf("placeholder Pods: got %d (%v), want 1", len(pods.Items), err)
	}
	if err := c.Delete(t.Context(), &pods.Items[0]); err != nil {
		t.Fatal(err)
	}
	c.WaitFor(t, b, "to run on another node", func() bool { return story.Running(b) && story.NodeOf(b) != from })
	if left := nodeHas(t, c, from, b); len(left) > 0 {
		t.Errorf("after the move %s still has %v, want nothing", from, left)
	}
}

func TestLostAgentIsReportedAndRecovers(t *testing.T) {
	c := connect(t)
	b := bottleOn(node2, c.Namespace(t), "lost", "lost")
	c.Apply(t, b)
	c.WaitRunning(t, b)
	pid := wantPID(t, b)
	c.Run(t, "agent-stop", node2)
	t.Cleanup(func() { c.Run(t, "agent-start", node2) })
	c.WaitReason(t, b, v1alpha1.ConditionReady, v1alpha1.ReasonAgentLost)
	if got := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionEgressEnforced); got == nil || got.Reason != v1alpha1.ReasonAgentLost {
		t.Errorf("EgressEnforced of a lost agent's Bottle: got %v, want reason AgentLost", got)
	}
	c.Eventually(t, "the node to offer no more capacity for Bottles", func() (string, bool) {
		return offered(nodeOf(t, c, node2))
	})
	c.Run(t, "agent-start", node2)
	c.WaitRunning(t, b)
	if got := pidOf(b); got != pid {
		t.Errorf("pid of the machine: got %d, want %d, because losing an agent loses no machine", got, pid)
	}
	c.Eventually(t, "the node to offer capacity for Bottles again", func() (string, bool) {
		got := nodeOf(t, c, node2).Status.Allocatable[v1alpha1.ResourceBottle]
		return got.String(), !got.IsZero()
	})
}

// A Bottle leaves a node that is switched off only after an operator declares the
// node out of service.
func TestNodeLossMovesABottleOnlyWhenOutOfService(t *testing.T) {
	c := connect(t)
	b := builders.MakeBottle("moves").Namespace(c.Namespace(t)).Slug("moves").Obj()
	changeNode(t, c, node1, func(n *corev1.Node) { n.Spec.Unschedulable = true })
	t.Cleanup(func() { changeNode(t, c, node1, func(n *corev1.Node) { n.Spec.Unschedulable = false }) })
	c.Apply(t, b)
	c.WaitRunning(t, b)
	changeNode(t, c, node1, func(n *corev1.Node) { n.Spec.Unschedulable = false })
	if got := story.NodeOf(b); got != node2 {
		t.Fatalf("node: got %s, want %s", got, node2)
	}
	c.Run(t, "agent-stop", node2)
	c.Run(t, "node-off", node2)
	t.Cleanup(func() {
		changeNode(t, c, node2, func(n *corev1.Node) { n.Spec.Taints = withoutTaint(n.Spec.Taints, corev1.TaintNodeOutOfService) })
		c.Run(t, "node-on", node2)
		c.Run(t, "agent-start", node2)
		c.Eventually(t, node2+" to offer capacity for Bottles again", func() (string, bool) {
			n := nodeOf(t, c, node2)
			got := n.Status.Allocatable[v1alpha1.ResourceBottle]
			return got.String(), !got.IsZero() && len(n.Spec.Taints) == 0
		})
	})
	c.WaitReason(t, b, v1alpha1.ConditionReady, v1alpha1.ReasonAgentLost)
	c.Eventually(t, node2+" to be NotReady", func() (string, bool) {
		for _, condition := range nodeOf(t, c, node2).Status.Conditions {
			if condition.Type == corev1.NodeReady {
				return string(condition.Status), condition.Status != corev1.ConditionTrue
			}
		}
		return "no Ready condition", false
	})
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(b), b); err != nil || story.NodeOf(b) != node2 {
		t.Fatalf("node of a Bottle whose node is NotReady: got %q (%v), want %s until it is out of service", story.NodeOf(b), err, node2)
	}
	changeNode(t, c, node2, func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute})
	})
	c.WaitFor(t, b, "to run on "+node1, func() bool { return story.Running(b) && story.NodeOf(b) == node1 })
}

func nodeOf(t *testing.T, c *story.Cluster, name string) *corev1.Node {
	t.Helper()
	n := &corev1.Node{}
	if err := c.Get(context.Background(), types.NamespacedName{Name: name}, n); err != nil {
		t.Fatal(err)
	}
	return n
}

// offered returns how many Bottles a Node offers, and whether it does not name the
// resource at all. A 0 would make a restarting kubelet reject running placeholders.
func offered(n *corev1.Node) (amount string, none bool) {
	capacity, named := n.Status.Capacity[v1alpha1.ResourceBottle]
	allocatable, allocated := n.Status.Allocatable[v1alpha1.ResourceBottle]
	return capacity.String() + " " + allocatable.String(), !named && !allocated
}

func changeNode(t *testing.T, c *story.Cluster, name string, change func(*corev1.Node)) {
	t.Helper()
	n := nodeOf(t, c, name)
	patch := client.MergeFrom(n.DeepCopy())
	change(n)
	if err := c.Patch(context.Background(), n, patch); err != nil {
		t.Fatal(err)
	}
}

func withoutTaint(taints []corev1.Taint, key string) []corev1.Taint {
	var kept []corev1.Taint
	for _, taint := range taints {
		if taint.Key != key {
			kept = append(kept, taint)
		}
	}
	return kept
}
