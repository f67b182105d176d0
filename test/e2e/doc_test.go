// SPDX-License-Identifier: Apache-2.0

// Package e2e tests the operator end to end, with a real API server, scheduler,
// controller manager and Docker Engines, two nodes and stand-in machines. It
// measures no times and does not test the isolation of machines; other tests do
// that with real machines.
//
// A test that stops, freezes or reconfigures a node, or checks what all Bottles on
// a node share, runs alone. All other tests are parallel, because they mostly wait.
package e2e

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/story"
)

const (
	node1 = "node-1"
	node2 = "node-2"
)

func TestMain(m *testing.M) { story.Main(m) }

func connect(t *testing.T) *story.Cluster {
	t.Helper()
	return story.Connect(t, 2*time.Minute)
}

// bottleOn returns a Bottle in ns that is pinned to a node, unless node is "".
func bottleOn(node, ns, name, slug string) *v1alpha1.Bottle {
	b := builders.MakeBottle(name).Namespace(ns).Slug(slug)
	if node != "" {
		b.Pin(node)
	}
	return b.Obj()
}

// pidOf returns the process ID in b's status, or 0.
func pidOf(b *v1alpha1.Bottle) int64 {
	if m := b.Status.Machine; m != nil && m.PID != nil {
		return *m.PID
	}
	return 0
}

// wantPID returns the process ID of a running Bottle.
func wantPID(t *testing.T, b *v1alpha1.Bottle) int64 {
	t.Helper()
	pid := pidOf(b)
	if pid == 0 {
		t.Fatalf("machine of running Bottle %s: got %+v, want its pid", b.Name, b.Status.Machine)
	}
	return pid
}

func ptr[T any](v T) *T { return &v }

// nodeHas lists everything of b that is still on the node.
func nodeHas(t *testing.T, c *story.Cluster, node string, b *v1alpha1.Bottle) []string {
	t.Helper()
	id, uid := story.ID(b), string(b.UID)
	var left []string
	add := func(what, out string) {
		if out != "" {
			left = append(left, what+": "+out)
		}
	}
	add("container", c.Exec(t, node, "docker", "ps", "-aq", "--filter", "name="+id))
	add("network", c.Exec(t, node, "docker", "network", "ls", "-q", "--filter", "name="+id))
	if r := c.TryExec(t, node, "smolvm", "machine", "status", "--name", id, "--json"); r.Code == 0 {
		add("machine", r.Stdout)
	}
	add("namespace", c.Exec(t, node, "sh", "-c", `ip netns list | grep -w "$1" || [ $? = 1 ]`, "sh", id))
	add("link", c.Exec(t, node, "sh", "-c", `ip -o link | grep "bv-$1" || [ $? = 1 ]`, "sh", uid[:8]))
	add("filter", c.Exec(t, node, "sh", "-c", `nft list tables | grep "bottle-$1" || [ $? = 1 ]`, "sh", uid[:8]))
	add("folders", c.Exec(t, node, "find", "/var/lib/bottle/bottles", "/var/lib/bottle/in", "/var/lib/bottle/out", "-maxdepth", "1", "-name", uid+"*"))
	add("mount", c.Exec(t, node, "sh", "-c", `grep "$1" /proc/mounts || [ $? = 1 ]`, "sh", uid))
	return left
}

// wantNothingLeft checks that nothing of b is left on its node or in the API.
func wantNothingLeft(t *testing.T, c *story.Cluster, node string, b *v1alpha1.Bottle) {
	t.Helper()
	if left := nodeHas(t, c, node, b); len(left) > 0 {
		t.Errorf("after deletion of %s, %s has %v, want nothing", b.Name, node, left)
	}
	// The manager removes the placeholder in a later pass.
	c.Eventually(t, "the placeholder Pods of deleted "+b.Name+" to be gone", func() (string, bool) {
		pods := &corev1.PodList{}
		err := c.List(t.Context(), pods, client.InNamespace(b.Namespace), client.MatchingLabels{v1alpha1.LabelUID: string(b.UID)})
		var left []string
		for _, pod := range pods.Items {
			if metav1.IsControlledBy(&pod, b) {
				left = append(left, pod.Name)
			}
		}
		return fmt.Sprintf("%v left (%v)", left, err), err == nil && len(left) == 0
	})
}
