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

// A guest dials its gateway ten times a second. After its wall is removed, some
// connections get through until the agent stops the machine, even while dockerd
// hangs and the API server is down. The machine then comes back behind its wall.
func TestMissingWallStopsMachine(t *testing.T) {
	c := connect(t)
	for _, breach := range story.Breaches {
		for _, isolated := range []bool{false, true} {
			b := bottleOn(node1, c.Namespace(t), "breach", "breach")
			b.Spec.Command = story.Dialer
			c.Apply(t, b)
			c.WaitRunning(t, b)
			name := breach.Name
			if isolated {
				name += ", dockerd hanging and the API server down"
			}
			t.Run(name, func(t *testing.T) { testBreach(t, c, b, breach, isolated) })
			c.DeleteAndWait(t, b)
		}
	}
}

func testBreach(t *testing.T, c *story.Cluster, b *v1alpha1.Bottle, breach story.Breach, isolated bool) {
	breach.Prepare(t, c, b)
	t.Cleanup(func() { breach.Undo(t, c, b) })
	counter := c.StartCounter(t, b, breach.Netns(b))
	pid := wantPID(t, b)
	if n, _ := counter.Read(t); n != 0 {
		t.Fatalf("connections with the wall in place: got %d, want none", n)
	}
	var thaw []func()
	if isolated {
		for _, what := range []string{"dockerd", "kube-apiserver"} {
			thaw = append(thaw, c.Freeze(t, node1, what))
		}
	}
	// Freeze the agent until a connection gets through, so that the silence after the
	// machine's end means something.
	resume := c.Freeze(t, node1, "agent")
	breach.Break(t, c, b)
	c.Eventually(t, "the guest to get through", func() (string, bool) {
		n, _ := counter.Read(t)
		return fmt.Sprint(n), n > 0
	})
	resume()
	c.Eventually(t, "the machine to be stopped", func() (string, bool) {
		r := c.TryExec(t, node1, "pgrep", "-f", "[_]boot-vm .*/boot-config.json")
		// While the API server is down, nothing starts the machine again.
		return r.Stdout, r.Code == 1 || !isolated && !slices.Contains(strings.Fields(r.Stdout), fmt.Sprint(pid))
	})
	n, _ := counter.Read(t)
	time.Sleep(2 * time.Second)
	if later, _ := counter.Read(t); later != n {
		t.Errorf("connections after the machine was stopped: got %d, then %d, want no more", n, later)
	}
	for _, f := range slices.Backward(thaw) {
		f()
	}
	c.WaitFor(t, b, "to run behind a repaired wall", func() bool {
		return story.Running(b) && pidOf(b) != 0 && pidOf(b) != pid && b.Status.Machine.LastLoss != nil
	})
	if got := b.Status.Machine.LastLoss.Cause; !strings.Contains(got, "stopped by the operator: ") {
		t.Errorf("cause of the loss: got %q, want it to name the operator", got)
	}
	c.Eventually(t, "an Event WallBroken", func() (string, bool) {
		events := &corev1.EventList{}
		err := c.List(t.Context(), events, client.InNamespace(b.Namespace))
		return fmt.Sprint(err, len(events.Items)), slices.ContainsFunc(events.Items, func(e corev1.Event) bool { return e.Reason == "WallBroken" })
	})
	n, _ = counter.Read(t)
	time.Sleep(time.Second)
	if later, _ := counter.Read(t); later != n {
		t.Errorf("connections behind the repaired wall: got %d, then %d, want no more", n, later)
	}
}
