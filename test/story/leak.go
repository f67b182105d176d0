// SPDX-License-Identifier: Apache-2.0

package story

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// leak redirects connections to port 8888 of a bundle to one of the agent's
// canaries on the gateway. It finds the canary as a listener on all addresses
// above port 1024, which on a development node are only the canaries, apart from the
// listener of test/escape and the port at which the agent serves the manager.
const leak = `
canary=$(busybox netstat -ltn | awk '$4 ~ /^:::[0-9]+$/ {sub(":::", "", $4); if ($4 + 0 > 1024 && $4 != 18080 && $4 != 9443) {print $4; exit}}')
[ -n "$canary" ]
pid=$(docker inspect -f '{{.State.Pid}}' "$1")
in_bundle() { nsenter -t "$pid" -n "$@"; }
in_bundle sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
in_bundle iptables -t nat -A PREROUTING -p tcp --dport 8888 -j DNAT --to-destination "$2:$canary"
in_bundle iptables -t nat -A POSTROUTING -j MASQUERADE
`

const removeLeak = `nsenter -t "$(docker inspect -f '{{.State.Pid}}' "$1")" -n iptables -t nat -F`

// PlantLeak makes the bundle of b a way to the node that neither wall can detect.
// unplant removes it again.
func (c *Cluster) PlantLeak(t testing.TB, b *v1alpha1.Bottle) (unplant func()) {
	t.Helper()
	c.Exec(t, NodeOf(b), "sh", "-ec", leak, "sh", ID(b), b.Status.Network.Gateway)
	return func() {
		t.Helper()
		c.Exec(t, NodeOf(b), "sh", "-ec", removeLeak, "sh", ID(b))
	}
}

// WantLeakDetected plants a leak in b, which must be running, and requests a proof.
// It checks that the leak is detected and that the machine is stopped and stays
// down. Then it removes the leak, requests another proof and waits until b runs
// again.
func (c *Cluster) WantLeakDetected(t *testing.T, b *v1alpha1.Bottle) {
	t.Helper()
	unplant := c.PlantLeak(t, b)
	annotate := func(value string) {
		c.Change(t, b, func() {
			if b.Annotations == nil {
				b.Annotations = map[string]string{}
			}
			b.Annotations[v1alpha1.AnnotationProve] = value
		})
	}
	annotate("with a leak")
	cond := c.WaitReason(t, b, v1alpha1.ConditionEgressEnforced, v1alpha1.ReasonLeakDetected)
	for _, word := range []string{b.Status.Network.Gateway, strings.TrimSpace(c.Exec(t, NodeOf(b), "smolvm", "--version")), v1alpha1.AnnotationProve} {
		if !strings.Contains(cond.Message, word) {
			t.Errorf("evidence: got %q, want %q in it", cond.Message, word)
		}
	}
	c.WaitFor(t, b, "to be stalled with its machine down", func() bool {
		stalled := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionStalled)
		return stalled != nil && stalled.Reason == v1alpha1.ReasonLeakDetected &&
			!meta.IsStatusConditionTrue(b.Status.Conditions, v1alpha1.ConditionMachineReady)
	})
	c.Eventually(t, "no VMM of it to be left", func() (string, bool) {
		vmms := c.TryExec(t, NodeOf(b), "pgrep", "-af", "[_]boot-vm")
		return vmms.Stdout, vmms.Code == 1
	})
	unplant()
	annotate("without it")
	c.WaitRunning(t, b)
}
