// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/story"
)

// A guest dials its gateway ten times a second. Whoever takes its wall away
// gets some of that, and then no more: the machine is stopped, also with
// dockerd hanging and the API server away, and comes back behind its wall.
func TestAWallThatIsTakenAwayStopsItsMachine(t *testing.T) {
	c := connect(t)
	for _, way := range story.Breaches {
		for _, alone := range []bool{false, true} {
			b := on(node1, c.Namespace(t), "breach", "breach")
			b.Spec.Command = story.Dialer
			c.Apply(t, b)
			c.WaitRunning(t, b)
			name := way.Name
			if alone {
				name += ", dockerd hanging and the API server away"
			}
			t.Run(name, func(t *testing.T) { breach(t, c, b, way, alone) })
			c.DeleteAndWait(t, b)
		}
	}
}

func breach(t *testing.T, c *story.Cluster, b *v1alpha1.Bottle, way story.Breach, alone bool) {
	way.Prepare(t, c, b)
	t.Cleanup(func() { way.Undo(t, c, b) })
	count := c.StartCounter(t, b, way.Netns(b))
	pid := wantPID(t, b)
	if n, _ := count.Read(t); n != 0 {
		t.Fatalf("connections with the wall in place: got %d, want none", n)
	}
	var thaw []func()
	if alone {
		for _, what := range []string{"dockerd", "kube-apiserver"} {
			thaw = append(thaw, c.Freeze(t, node1, what))
		}
	}
	// The agent sleeps until something got through: what stops then was there.
	wake := c.Freeze(t, node1, "agent")
	way.Break(t, c, b)
	c.Eventually(t, "the guest to get through", func() (string, bool) {
		n, _ := count.Read(t)
		return fmt.Sprint(n), n > 0
	})
	wake()
	c.Eventually(t, "the machine to be stopped", func() (string, bool) {
		r := c.TryExec(t, node1, "pgrep", "-f", "[_]boot-vm .*/boot-config.json")
		// With the API server away nothing starts it again.
		return r.Stdout, r.Code == 1 || !alone && !slices.Contains(strings.Fields(r.Stdout), fmt.Sprint(pid))
	})
	n, _ := count.Read(t)
	time.Sleep(2 * time.Second)
	if later, _ := count.Read(t); later != n {
		t.Errorf("connections after the machine was stopped: got %d, then %d, want no more", n, later)
	}
	for _, f := range slices.Backward(thaw) {
		f()
	}
	c.WaitFor(t, b, "to run behind a mended wall", func() bool {
		return story.Running(b) && pidOf(b) != 0 && pidOf(b) != pid && b.Status.Machine.LastLoss != nil
	})
	if got := b.Status.Machine.LastLoss.Cause; !strings.Contains(got, "stopped by the operator: ") {
		t.Errorf("cause of the loss: got %q, want it to be the operator's doing", got)
	}
	c.Eventually(t, "an Event WallBroken", func() (string, bool) {
		events := &corev1.EventList{}
		err := c.List(t.Context(), events, client.InNamespace(b.Namespace))
		return fmt.Sprint(err, len(events.Items)), slices.ContainsFunc(events.Items, func(e corev1.Event) bool { return e.Reason == "WallBroken" })
	})
	n, _ = count.Read(t)
	time.Sleep(time.Second)
	if later, _ := count.Read(t); later != n {
		t.Errorf("connections behind the mended wall: got %d, then %d, want no more", n, later)
	}
}
