// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/story"
)

// A VPN comes up on the node, and its routes cover a Bottle's subnet, one of them in a
// table of its own. NetworkReady names them. The guest, which dials its gateway all the
// time, reaches nothing, and the machine runs on when the VPN is gone.
func TestARouteOverABottlesSubnet(t *testing.T) {
	c := connect(t)
	b := bottleOn(node1, c.Namespace(t), "routed", "routed")
	b.Spec.Command = story.Dialer
	c.Apply(t, b)
	c.WaitRunning(t, b)
	pid := wantPID(t, b)
	counter := c.StartCounter(t, b, "")
	subnet := netip.MustParsePrefix(b.Status.Network.Subnet)
	half := netip.PrefixFrom(subnet.Addr(), 25).String()
	const vpn = "vpn-e2e"
	c.Exec(t, node1, "ip", "link", "add", vpn, "type", "bridge")
	t.Cleanup(func() { c.TryExec(t, node1, "ip", "link", "del", vpn) })
	c.Exec(t, node1, "ip", "link", "set", vpn, "up")
	c.Exec(t, node1, "ip", "route", "add", half, "dev", vpn, "table", "51820")
	message := c.WaitReason(t, b, v1alpha1.ConditionNetworkReady, v1alpha1.ReasonRouteConflict).Message
	for _, want := range []string{half + ` ("` + vpn + `", table 51820)`, "delete the Bottle and create it again"} {
		if !strings.Contains(message, want) {
			t.Errorf("message: got %q, want %q in it", message, want)
		}
	}
	c.Exec(t, node1, "ip", "route", "add", subnet.String(), "dev", vpn, "metric", "7")
	c.WaitFor(t, b, "to name the second route", func() bool {
		return strings.Contains(story.Conditions(b), subnet.String()+` ("`+vpn+`", table main)`)
	})
	c.WaitReason(t, b, v1alpha1.ConditionReady, v1alpha1.ReasonRouteConflict)
	// The kernel reports no routes that go with an interface.
	c.Exec(t, node1, "ip", "link", "del", vpn)
	c.WaitRunning(t, b)
	if got := wantPID(t, b); got != pid {
		t.Errorf("pid: got %d, want %d: the machine was restarted", got, pid)
	}
	if n, _ := counter.Read(t); n != 0 {
		t.Errorf("connections to the gateway: got %d, want none", n)
	}
}
