// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/host"
)

func closedNode(networks ...string) egress.Limits {
	l := egress.Limits{}
	for _, n := range networks {
		l.Closed = append(l.Closed, egress.Closed{Network: netip.MustParsePrefix(n), By: egress.ByNode})
	}
	return l
}

// The message names each refused rule as the user wrote it, which limit it was, and
// what to do.
func TestRefusedRulesAreNamed(t *testing.T) {
	w := newWorld(t, demo().Allow("API.example.com", "192.168.45.2:8888", "198.51.100.9:10250", "10.96.0.1", "evil.test:8443", "203.0.113.0/24").Obj())
	w.limits = closedNode("198.51.100.9/32")
	w.limits.Closed = append(w.limits.Closed, egress.Closed{Network: netip.MustParsePrefix("192.168.0.0/16"), By: egress.BySubnetPool},
		egress.Closed{Network: netip.MustParsePrefix("10.96.0.0/12"), By: egress.ByFlag})
	ceiling, err := egress.ParseSet([]string{"api.example.com", "0.0.0.0/0:443", "0.0.0.0/0:8888", "0.0.0.0/0:10250"})
	if err != nil {
		t.Fatal(err)
	}
	w.limits.Ceiling = &ceiling
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "False/EgressRuleRefused")
	message := w.message(demoKey, v1alpha1.ConditionBundleReady)
	for _, want := range []string{
		`spec.egress.allow: egress rule "192.168.45.2:8888": is closed by the platform: it is in the subnet pool 192.168.0.0/16`,
		`egress rule "198.51.100.9:10250": is closed by the platform: it is an address of this node; remove the rule`,
		`egress rule "10.96.0.1": is closed by the platform: it is in --egress-closed 10.96.0.0/12 of the node's agent; remove the rule, or ask`,
		`egress rule "evil.test:8443": is closed by the platform: it is not within --egress-ceiling of the node's agent; remove the rule`,
	} {
		if !strings.Contains(message, want) {
			t.Errorf("message: got %s, want %s", message, want)
		}
	}
	if strings.Contains(message, "API.example.com") || strings.Contains(message, "203.0.113") {
		t.Errorf("message: got %s, want only what is refused", message)
	}
	if got := w.machines.Starts(testID); got != 0 {
		t.Errorf("starts: got %d, want no machine", got)
	}
	w.limits = egress.Limits{}
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
}

// If the platform's limits change while a Bottle runs, the Bottle loses what they close
// and keeps running: its machine is not stopped, and it starts again if it ends.
func TestARunningBottleIsLimited(t *testing.T) {
	w := newWorld(t, demo().Allow("a.example.com", "172.17.0.1:2375").Obj())
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	w.limits = closedNode("172.17.0.1/32")
	if err := w.enforcer.ApplyLimits(); err != nil {
		t.Fatal(err)
	}
	if got, want := w.rulesInForce(), []string{"a.example.com:443"}; !slices.Equal(got, want) {
		t.Errorf("rules in force before a pass: got %q, want %q", got, want)
	}
	w.events()
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	w.wantCond(demoKey, v1alpha1.ConditionEgressLimited, "True/EgressRuleRefused")
	const want = `spec.egress.allow: egress rule "172.17.0.1:2375": is closed by the platform: it is an address of this node; remove the rule`
	if got := w.message(demoKey, v1alpha1.ConditionEgressLimited); got != want {
		t.Errorf("message: got %q, want %q", got, want)
	}
	w.wantEvent("Warning EgressRuleRefused " + want)
	if got := w.machines.Starts(testID); got != 1 {
		t.Errorf("starts: got %d, want the machine to have kept running", got)
	}
	w.machines.Kill(testID)
	w.r.view.Invalidate(testID)
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	if got := w.machines.Starts(testID); got != 2 {
		t.Errorf("starts after the machine ended: got %d, want 2", got)
	}
	w.limits = egress.Limits{}
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionEgressLimited, "")
	if got, want := w.rulesInForce(), []string{"a.example.com:443", "172.17.0.1:2375"}; !slices.Equal(got, want) {
		t.Errorf("rules in force without limits: got %q, want %q", got, want)
	}
}

// The status says which denials were the platform's, and why.
func TestClosedDenialsAreReported(t *testing.T) {
	w := running(t)
	w.deny("other.test")
	w.bundles.Decide(ownerOfDemo(), host.Decision{Time: w.clock.Now(), Verdict: host.VerdictDeny, Host: "node.example.com", Port: 10250, Closed: string(egress.ByNode)})
	w.until("the denials", func() bool { return len(w.r.denials.Closed(testUID)) > 0 })
	w.settle(demoKey)
	e := w.bottle(demoKey).Status.Egress
	if want := []string{"node.example.com:10250: an address of this node"}; e == nil || !slices.Equal(e.ClosedByPlatform, want) || len(e.RecentDenials) != 2 {
		t.Errorf("status.egress: got %+v, want two denials, %q", e, want)
	}
}
