// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/test/story"
)

// breach is one way to take away a wall of a Bottle whose bundle is in a Pod.
type breach struct {
	name string
	// script takes the wall away, in the Pod's network namespace. Its arguments are the
	// bundle's end of the wall's link, a spare namespace, the chain on that link, and the
	// chain that keeps others from the bundle.
	script string
	// inMachine reports that the script runs in the machine's namespace instead.
	inMachine bool
	// opens reports that the guest gets through, so that its machine must be stopped.
	opens bool
}

// inTransaction removes a chain together with its rules, because a chain without rules
// would drop everything.
const inTransaction = `nft "flush chain $chain; delete chain $chain"`

var breaches = []breach{
	{name: "chain deleted", script: "chain=$3; " + inTransaction, opens: true},
	{name: "second filter's chain deleted", script: "chain=$4; " + inTransaction},
	{name: "second filter's chain flushed", script: "nft flush chain $4"},
	{name: "ruleset flushed", script: "nft flush ruleset", opens: true},
	{name: "forwarding switched on", script: `echo 1 >"/proc/sys/net/ipv4/conf/bb-${1#bv-}/forwarding"`, opens: true},
	{name: "link moved out of the Pod", script: `ip link set "$1" netns "$2"`},
	{name: "link renamed in the Pod", script: `ip link set "$1" down; ` + rename},
	{name: "link deleted in the Pod", script: `ip link del "$1"`},
	{name: "link taken off its bridge", script: `ip link set "$1" nomaster`},
	{name: "link renamed at the machine", inMachine: true, script: `set -- bundle0; ip link set "$1" down; ` + rename},
	{name: "link moved out of the machine", inMachine: true, script: `ip link set bundle0 netns "$2"`},
}

const rename = `ip link set "$1" name stranger; ip link set stranger up`

// shortBreaches returns those for which make test has time.
func shortBreaches() []breach {
	return slices.DeleteFunc(slices.Clone(breaches), func(b breach) bool {
		return !slices.Contains([]string{"chain deleted", "second filter's chain deleted"}, b.name)
	})
}

// breakWalls takes the walls of the kept Bottle away, one after another. Each is noticed
// and the Bottle made safe: it runs again behind both filters, and if its wall was open, in
// a machine that started afterwards.
func (w *world) breakWalls(t *testing.T, all []breach) {
	for _, b := range all {
		t.Run(b.name, func(t *testing.T) { w.breakWall(t, b) })
	}
}

func (w *world) breakWall(t *testing.T, b breach) {
	w.WaitRunning(t, w.kept) // a step before this one may have failed halfway
	before := w.identify(t)
	sandbox := w.Sandbox(t, w.kept)
	w.wantBothChains(t, sandbox)
	uid8 := string(w.kept.UID)[:8]
	spare := "spare-" + uid8
	w.Exec(t, node, "ip", "netns", "add", spare)
	t.Cleanup(func() { w.TryExec(t, node, "ip", "netns", "del", spare) })
	namespace := sandbox.NetNS
	if b.inMachine {
		namespace = "/run/netns/" + story.ID(w.kept)
	}
	w.keepDialing(t, w.kept)
	begin := time.Now()
	w.Exec(t, node, "nsenter", "--net="+namespace, "sh", "-ec", b.script, "sh", "bv-"+uid8, spare, w.wallChain(), bundleChain)
	if b.opens {
		w.Eventually(t, "the machine to be stopped", func() (string, bool) {
			return "it runs", !w.vmmRuns(t, before.pid)
		})
		t.Logf("the machine was stopped after %s", time.Since(begin).Round(100*time.Millisecond))
		w.WaitFor(t, w.kept, "to run in another machine", func() bool {
			m := w.kept.Status.Machine
			return story.Running(w.kept) && m != nil && m.PID != nil && fmt.Sprint(*m.PID) != before.pid
		})
		if loss := w.kept.Status.Machine.LastLoss; loss == nil || !strings.Contains(loss.Cause, "stopped by the operator") {
			t.Errorf("the loss of the machine: got %+v, want one that the operator caused", loss)
		}
	}
	// If the wall was not open, the machine may have run on.
	w.Eventually(t, "both chains to be back", func() (string, bool) {
		s, ok := w.TrySandbox(t, w.kept)
		if !ok {
			return "the Pod has no sandbox", false
		}
		return w.chainsIn(t, s)
	})
	w.WaitRunning(t, w.kept)
	t.Logf("the Bottle was safe and Ready after %s", time.Since(begin).Round(100*time.Millisecond))
	w.wantBundleReached(t)
	w.wantNoPodReachesBundle(t)
	w.before = w.identify(t)
}

// chainsIn describes the chain on the wall's link and the chain that keeps others from the
// bundle, and reports whether both are there and drop something.
func (w *world) chainsIn(t *testing.T, s story.Sandbox) (state string, both bool) {
	t.Helper()
	both = true
	for _, chain := range []string{w.wallChain(), bundleChain} {
		argv := append([]string{"nsenter", "--net=" + s.NetNS, "nft", "list", "chain"}, strings.Fields(chain)...)
		r := w.TryExec(t, node, argv...)
		state += fmt.Sprintf("\n%s: exit code %d\n%s%s", chain, r.Code, r.Stdout, r.Stderr)
		both = both && r.Code == 0 && strings.Contains(r.Stdout, "drop")
	}
	return state, both
}

// bundleChain is the chain that keeps all but the machine from the bundle.
const bundleChain = "inet bottle-pod prerouting"

// wallChain returns the chain on the bundle's end of the wall's link.
func (w *world) wallChain() string { return "netdev bottle-" + string(w.kept.UID)[:8] + " ingress" }

func (w *world) wantBothChains(t *testing.T, s story.Sandbox) {
	t.Helper()
	if state, both := w.chainsIn(t, s); !both {
		t.Fatalf("chains in the Pod's namespace: got %s\nwant both, with rules that drop", state)
	}
}

// wantBundleReached checks that the guest gets an answer of its bundle.
func (w *world) wantBundleReached(t *testing.T) {
	t.Helper()
	w.Eventually(t, "the guest to reach its bundle", func() (string, bool) {
		r := w.TryExec(t, node, "smolvm", "machine", "exec", "--name", story.ID(w.kept), "--",
			"sh", "-c", `http_proxy= wget -T 10 -qO- "http://$BOTTLE_BUNDLE_IP:8888" 2>&1; true`)
		return r.Stdout + r.Stderr, strings.Contains(r.Stdout, "HTTP/1.1 40")
	})
}
