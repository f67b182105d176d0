// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"encoding/json"
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
	// node's end of the wall's link, the Pod's own link, a spare namespace, and the
	// chains of the two links, as "FAMILY TABLE CHAIN".
	script string
	// machine is the namespace in which the script runs instead: the machine's.
	inMachine bool
	// opens reports that the guest gets through, so that its machine must be stopped.
	opens bool
}

// inTransaction removes a chain together with its rules, because a chain without rules
// would drop everything.
const inTransaction = `nft "flush chain $chain; delete chain $chain"`

var breaches = []breach{
	{name: "chain deleted", script: "chain=$4; " + inTransaction, opens: true},
	{name: "chain of the Pod's own link deleted", script: "chain=$5; " + inTransaction},
	{name: "chain of the Pod's own link flushed", script: `nft flush chain $5`},
	{name: "ruleset of the Pod flushed", script: "nft flush ruleset", opens: true},
	{name: "link moved out of the Pod", script: `ip link set "$1" netns "$3"`},
	{name: "link renamed in the Pod", script: `ip link set "$1" down; ip link set "$1" name stranger; ip link set stranger up`},
	{name: "link deleted in the Pod", script: `ip link del "$1"`},
	{name: "link taken off its bridge", script: `ip link set "$1" nomaster`},
	{name: "link renamed at the machine", inMachine: true, script: `link=$(ip -o link show type veth | sed 's/^[0-9]*: //; s/[@:].*//'); ip link set "$link" down; ip link set "$link" name stranger; ip link set stranger up`},
	{name: "link moved out of the machine", inMachine: true, script: `link=$(ip -o link show type veth | sed 's/^[0-9]*: //; s/[@:].*//'); ip link set "$link" netns "$3"`},
	{name: "forwarding switched on in the Pod", script: `echo 1 >"/proc/sys/net/ipv4/conf/bb-${1#bv-}/forwarding"`},
}

// shortBreaches are those for which make test has time.
func shortBreaches() []breach {
	return slices.DeleteFunc(slices.Clone(breaches), func(b breach) bool {
		return !slices.Contains([]string{"chain deleted", "chain of the Pod's own link deleted"}, b.name)
	})
}

// breakWalls takes the walls of the kept Bottle away, one after another. Each is noticed
// and the Bottle made safe: it runs again behind both chains, and if its wall was open, in
// a machine that started afterwards.
func (w *world) breakWalls(t *testing.T, all []breach) {
	for _, b := range all {
		t.Run(b.name, func(t *testing.T) { w.breakWall(t, b) })
	}
}

func (w *world) breakWall(t *testing.T, b breach) {
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
	wall, own := w.chains(t, sandbox)
	w.keepDialing(t, w.kept)
	begin := time.Now()
	w.Exec(t, node, "nsenter", "--net="+namespace, "sh", "-ec", b.script, "sh", "bv-"+uid8, "eth0", spare, wall, own)
	if b.opens {
		w.Eventually(t, "the machine to be stopped", func() (string, bool) {
			return "it runs", w.TryExec(t, node, "test", "-d", "/proc/"+before.pid).Code != 0
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
		wall, own := w.chains(t, s)
		return fmt.Sprintf("%q and %q", wall, own), wall != "" && own != ""
	})
	w.WaitRunning(t, w.kept)
	t.Logf("the Bottle was safe and Ready after %s", time.Since(begin).Round(100*time.Millisecond))
	w.wantBundleReached(t)
	w.wantNoPodReachesBundle(t)
	w.before = w.identify(t)
}

// chains returns the chains of the wall's link and of the Pod's own link, as
// "FAMILY TABLE CHAIN". A chain without rules counts as missing.
func (w *world) chains(t *testing.T, s story.Sandbox) (wall, own string) {
	t.Helper()
	var list struct {
		Nftables []struct {
			Chain *struct {
				Family, Table, Name string
				Dev                 any // a name, or several
			}
			Rule *struct{ Family, Table, Chain string }
		}
	}
	out := w.Exec(t, node, "nsenter", "--net="+s.NetNS, "nft", "-j", "list", "ruleset")
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("nft: %v in %q", err, out)
	}
	ruled := map[string]bool{}
	for _, o := range list.Nftables {
		if o.Rule != nil {
			ruled[o.Rule.Family+" "+o.Rule.Table+" "+o.Rule.Chain] = true
		}
	}
	for _, o := range list.Nftables {
		if o.Chain == nil || o.Chain.Family != "netdev" {
			continue
		}
		name := o.Chain.Family + " " + o.Chain.Table + " " + o.Chain.Name
		devices := fmt.Sprint(o.Chain.Dev)
		switch {
		case !ruled[name]:
		case strings.Contains(devices, "bv-"):
			wall = name
		case strings.Contains(devices, "eth0"):
			own = name
		}
	}
	return wall, own
}

func (w *world) wantBothChains(t *testing.T, s story.Sandbox) {
	t.Helper()
	if wall, own := w.chains(t, s); wall == "" || own == "" {
		t.Fatalf("chains in the Pod's namespace: got %q on the wall's link and %q on the Pod's own, want both", wall, own)
	}
}

// wantBundleReached checks that the guest gets an answer of its bundle.
func (w *world) wantBundleReached(t *testing.T) {
	t.Helper()
	w.Eventually(t, "the guest to reach its bundle", func() (string, bool) {
		r := w.TryExec(t, node, "smolvm", "machine", "exec", "--name", story.ID(w.kept), "--",
			"sh", "-c", `http_proxy= wget -T 10 -qO- "http://$BOTTLE_BUNDLE_IP:8888" 2>&1; true`)
		return r.Stdout + r.Stderr, strings.Contains(r.Stdout, "400")
	})
}
