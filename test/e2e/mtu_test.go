// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/story"
)

// A node gets a default route with a smaller MTU while a machine runs. When the machine's
// bundle is made again, its network and the wall's link get that MTU, and the machine
// keeps running.
func TestASmallerUplinkMTU(t *testing.T) {
	t.Parallel()
	c := connect(t)
	b := bottleOn(node1, c.Namespace(t), "mtu", "mtu")
	c.Apply(t, b)
	c.WaitRunning(t, b)
	pid := wantPID(t, b)
	link := host.Owner{UID: string(b.UID)}.Veth()
	// No rule leads to this table, so the node sends nothing by this route.
	route := []string{"ip", "route", "add", "default", "dev", "docker0", "mtu", "1300", "table", "4242"}
	c.Exec(t, node1, route...)
	t.Cleanup(func() {
		route[2] = "del"
		c.TryExec(t, node1, route...)
	})
	c.Exec(t, node1, "docker", "rm", "-f", story.ID(b))
	c.Eventually(t, "the wall's link to have the route's MTU", func() (string, bool) {
		r := c.TryExec(t, node1, "ip", "-o", "link", "show", "dev", link)
		return r.Stdout + r.Stderr, strings.Contains(r.Stdout, " mtu 1300 ")
	})
	// The status may still be the one from before.
	c.Eventually(t, "the new bundle to refuse a request", func() (string, bool) {
		r := c.Guest(t, b, "sh", "-c", "wget -q -O- http://203.0.113.1/ 2>&1 || true")
		return r, strings.Contains(r, "403")
	})
	c.WaitRunning(t, b)
	if got := wantPID(t, b); got != pid {
		t.Errorf("machine's PID: got %d, want %d as before", got, pid)
	}
}
