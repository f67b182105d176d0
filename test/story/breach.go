// SPDX-License-Identifier: Apache-2.0

package story

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// dialPort is where Dialer's guests dial: a port of the gateway.
const dialPort = 4999

// Dialer is the command of a guest that dials port 4999 of its gateway ten
// times a second, whatever comes of it, for as long as it runs.
var Dialer = []string{"sh", "-c", fmt.Sprintf("while :; do (nc -w 1 ${BOTTLE_BUNDLE_IP%%.*}.1 %d </dev/null >/dev/null 2>&1 &); sleep 0.1; done", dialPort)}

// counter listens on port 4999 of all addresses and keeps in a file how many
// connections it was given, and when the last one came.
const counter = `
import os, socket, sys, time
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("0.0.0.0", int(sys.argv[1]))); s.listen(128)
path, n = sys.argv[2], 0
def keep(t):
    with open(path + ".new", "w") as f: f.write("%d %.6f\n" % (n, t))
    os.rename(path + ".new", path)
keep(0)
while True:
    c, _ = s.accept(); n += 1; keep(time.time()); c.close()
`

// Counter counts who dials the gateway of a Bottle.
type Counter struct {
	c          *Cluster
	node, path string
}

// Count starts a counter on b's node, in the network namespace of that name or
// in the node's own for "". One at a time, until Stop or the end of the test.
func (c *Cluster) Count(t testing.TB, b *v1alpha1.Bottle, netns string) *Counter {
	t.Helper()
	k := &Counter{c: c, node: NodeOf(b), path: "/run/count-" + string(b.UID)[:8]}
	enter := ""
	if netns != "" {
		enter = "ip netns exec " + netns
	}
	script := fmt.Sprintf("rm -f %[1]s; %[2]s setsid python3 -c \"$1\" %[3]d %[1]s </dev/null >/dev/null 2>&1 & echo $!", k.path, enter, dialPort)
	c.Exec(t, k.node, "sh", "-c", script, "sh", counter)
	t.Cleanup(func() { k.Stop(t) })
	c.Eventually(t, "the counter to listen", func() (string, bool) {
		r := c.TryExec(t, k.node, "cat", k.path)
		return r.Stderr, r.Code == 0
	})
	return k
}

// Stop ends the counter.
func (k *Counter) Stop(t testing.TB) {
	t.Helper()
	k.c.TryExec(t, k.node, "sh", "-c", `pkill -f "[4]999 $1"; rm -f "$1"`, "sh", k.path)
}

// Read returns how many connections came so far, and when the last one did.
func (k *Counter) Read(t testing.TB) (n int, last time.Time) {
	t.Helper()
	var at float64
	out := k.c.Exec(t, k.node, "cat", k.path)
	if _, err := fmt.Sscan(out, &n, &at); err != nil {
		t.Fatalf("counter: %q: %v", out, err)
	}
	return n, time.UnixMicro(int64(at * 1e6))
}

// Way is one way in which a wall is taken from a running machine.
type Way struct {
	Name string
	// Elsewhere: what the guest dials then arrives in a namespace of its own.
	Elsewhere bool
	Break     func(t testing.TB, c *Cluster, b *v1alpha1.Bottle)
	// Asleep: the agent must be, or it is faster than the breaking.
	Asleep bool
	// Docker: it takes dockerd's own rules along, which only a new dockerd
	// brings back.
	Docker bool
}

// Where is the network namespace in which what the guest of b dials arrives
// once its wall is gone; "" is the node's own.
func (w Way) Where(b *v1alpha1.Bottle) string {
	if !w.Elsewhere {
		return ""
	}
	return "breach-" + string(b.UID)[:8]
}

// Prepare makes what the way needs on b's node.
func (w Way) Prepare(t testing.TB, c *Cluster, b *v1alpha1.Bottle) {
	t.Helper()
	if w.Elsewhere {
		c.Exec(t, NodeOf(b), "ip", "netns", "add", w.Where(b))
	}
}

// Undo takes away what Prepare made, and mends what Break broke beside the
// wall.
func (w Way) Undo(t testing.TB, c *Cluster, b *v1alpha1.Bottle) {
	t.Helper()
	if w.Elsewhere {
		c.TryExec(t, NodeOf(b), "ip", "netns", "del", w.Where(b))
	}
	if w.Docker {
		c.Run(t, "docker-stop", NodeOf(b))
		c.Run(t, "docker-start", NodeOf(b))
	}
}

// Ways are the ways that there are.
var Ways = []Way{
	{Name: "chain deleted", Break: func(t testing.TB, c *Cluster, b *v1alpha1.Bottle) {
		// In one transaction: a chain without rules would drop everything.
		chain := fmt.Sprintf("chain netdev bottle-%s ingress", string(b.UID)[:8])
		c.Exec(t, NodeOf(b), "nft", "flush "+chain+"; delete "+chain)
	}},
	{Name: "link moved", Elsewhere: true, Break: func(t testing.TB, c *Cluster, b *v1alpha1.Bottle) {
		c.Exec(t, NodeOf(b), "sh", "-ec", `
			ip link set "$1" netns "$2"
			ip -n "$2" addr add "$3/24" dev "$1"
			ip -n "$2" link set "$1" up`, "sh", "bv-"+string(b.UID)[:8], Way{Elsewhere: true}.Where(b), b.Status.Network.Gateway)
	}},
	{Name: "machine outside", Asleep: true, Break: func(t testing.TB, c *Cluster, b *v1alpha1.Bottle) {
		for _, verb := range []string{"stop", "start"} {
			c.Exec(t, NodeOf(b), "smolvm", "machine", verb, "--name", ID(b))
		}
	}},
	{Name: "ruleset flushed", Docker: true, Break: func(t testing.TB, c *Cluster, b *v1alpha1.Bottle) {
		c.Exec(t, NodeOf(b), "nft", "flush", "ruleset")
	}},
}

// Freeze stops a process of the cluster (agent, dockerd, or the API server on
// any node) until the function that it returns is called, or the test ends.
func (c *Cluster) Freeze(t testing.TB, node, what string) (thaw func()) {
	t.Helper()
	name := what + "-" + node
	if what == "kube-apiserver" {
		name = what
	}
	content, err := os.ReadFile(filepath.Join(c.Dir, "run", name+".pid"))
	if err != nil {
		t.Fatalf("freeze %s: %v", name, err)
	}
	pid, err := strconv.Atoi(strings.Fields(string(content))[0])
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGSTOP)
	}
	if err != nil {
		t.Fatalf("freeze %s: %v", name, err)
	}
	thawed := false
	thaw = func() {
		if !thawed {
			thawed = true
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	}
	t.Cleanup(thaw)
	return thaw
}
