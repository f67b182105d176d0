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

// dialPort is the gateway's port that Dialer connects to.
const dialPort = 4999

// Dialer is the command of a guest that dials port 4999 of its gateway ten times a
// second for as long as it runs, whether or not it gets through.
var Dialer = []string{"sh", "-c", fmt.Sprintf("while :; do (nc -w 1 ${BOTTLE_BUNDLE_IP%%.*}.1 %d </dev/null >/dev/null 2>&1 &); sleep 0.1; done", dialPort)}

// counter is a Python program that listens on port 4999 of all addresses. It
// writes the number of connections, and the time of the last one, to a file.
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

// Counter counts connections to the gateway of a Bottle.
type Counter struct {
	c          *Cluster
	node, path string
}

// StartCounter starts a counter on b's node, in the named network namespace, or in
// the node's own if netns is "". It runs until Stop or the end of the test. Only one
// counter can run at a time.
func (c *Cluster) StartCounter(t testing.TB, b *v1alpha1.Bottle, netns string) *Counter {
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

// Read returns the number of connections so far and the time of the last one.
func (k *Counter) Read(t testing.TB) (n int, last time.Time) {
	t.Helper()
	var at float64
	out := k.c.Exec(t, k.node, "cat", k.path)
	if _, err := fmt.Sscan(out, &n, &at); err != nil {
		t.Fatalf("counter: %q: %v", out, err)
	}
	return n, time.UnixMicro(int64(at * 1e6))
}

// Breach is one way to remove the wall of a running machine.
type Breach struct {
	Name string
	// OwnNamespace reports that the guest's connections then arrive in a separate
	// namespace, not in the node's.
	OwnNamespace bool
	Break        func(t testing.TB, c *Cluster, b *v1alpha1.Bottle)
	// FreezeAgent reports that the agent must be frozen during Break, because it
	// would otherwise react before Break is done.
	FreezeAgent bool
	// RestartDocker reports that Break also removes dockerd's own rules, which only
	// a restart of dockerd restores.
	RestartDocker bool
}

// Netns returns the network namespace in which the connections of b's guest arrive
// once its wall is gone; "" is the node's own.
func (w Breach) Netns(b *v1alpha1.Bottle) string {
	if !w.OwnNamespace {
		return ""
	}
	return "breach-" + string(b.UID)[:8]
}

// Prepare creates what the breach needs on b's node.
func (w Breach) Prepare(t testing.TB, c *Cluster, b *v1alpha1.Bottle) {
	t.Helper()
	if w.OwnNamespace {
		c.Exec(t, NodeOf(b), "ip", "netns", "add", w.Netns(b))
	}
}

// Undo removes what Prepare created, and restores what Break removed besides the
// wall.
func (w Breach) Undo(t testing.TB, c *Cluster, b *v1alpha1.Bottle) {
	t.Helper()
	if w.OwnNamespace {
		c.TryExec(t, NodeOf(b), "ip", "netns", "del", w.Netns(b))
	}
	if w.RestartDocker {
		c.Run(t, "docker-stop", NodeOf(b))
		c.Run(t, "docker-start", NodeOf(b))
	}
}

// Breaches are all known breaches of Bottles whose bundles run on docker. The first one
// also works for a bundle in a Pod.
var Breaches = []Breach{
	{Name: "chain deleted", Break: func(t testing.TB, c *Cluster, b *v1alpha1.Bottle) {
		// In one transaction, because a chain without rules would drop everything.
		chain := fmt.Sprintf("chain netdev bottle-%s ingress", string(b.UID)[:8])
		c.Exec(t, NodeOf(b), append(c.BesideWall(t, b), "nft", "flush "+chain+"; delete "+chain)...)
	}},
	{Name: "link moved", OwnNamespace: true, Break: func(t testing.TB, c *Cluster, b *v1alpha1.Bottle) {
		c.Exec(t, NodeOf(b), "sh", "-ec", `
			ip link set "$1" netns "$2"
			ip -n "$2" addr add "$3/24" dev "$1"
			ip -n "$2" link set "$1" up`, "sh", "bv-"+string(b.UID)[:8], Breach{OwnNamespace: true}.Netns(b), b.Status.Network.Gateway)
	}},
	{Name: "machine outside", FreezeAgent: true, Break: func(t testing.TB, c *Cluster, b *v1alpha1.Bottle) {
		for _, verb := range []string{"stop", "start"} {
			c.Exec(t, NodeOf(b), "smolvm", "machine", verb, "--name", ID(b))
		}
	}},
	{Name: "ruleset flushed", RestartDocker: true, Break: func(t testing.TB, c *Cluster, b *v1alpha1.Bottle) {
		c.Exec(t, NodeOf(b), "nft", "flush", "ruleset")
	}},
}

// Freeze suspends a process of the cluster until thaw is called or the test ends.
// what is agent or dockerd, of the given node, or kube-apiserver, for which node
// is ignored.
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
