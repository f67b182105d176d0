// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/story"
)

// publicAddress is an address that node.test resolves to. The simulated internet
// does not have it; a test gives it to a node.
const publicAddress = "203.0.113.99"

// A rule opens neither another Bottle's network, nor the node's own addresses, nor
// what the agent's flag closes, whether it names an address, a network or a name that
// resolves there.
func TestThePlatformStaysClosed(t *testing.T) {
	c := connect(t)
	ns := c.Namespace(t)
	node := nodeWithServers(t, c)
	other := bottleOn(node1, ns, "closed-other", "closed-other")
	wide := bottleOn(node1, ns, "closed-wide", "closed-wide")
	wide.Spec.Egress = &v1alpha1.Egress{Allow: []v1alpha1.EgressRule{
		"0.0.0.0/0:8888", "0.0.0.0/0:10250", "0.0.0.0/0:2375", "0.0.0.0/0:443", "0.0.0.0/0:80", "node.test:10250", "::/0", "allowed.test:80"}}
	c.Apply(t, other, wide)
	c.WaitRunning(t, other, wide)
	otherBundle := other.Status.Network.BundleIP + ":8888"
	attempts := []struct{ target, why string }{
		{"node.test:10250", "it is an address of this node"}, // first, because denials are published once a minute
		{otherBundle, "it is in the subnet pool"},
		{node + ":10250", "it is an address of this node"},
		{publicAddress + ":10250", "it is an address of this node"},
		{"172.17.0.1:2375", "it is an address of this node"},
		{"[::ffff:" + node + "]:10250", "it is an address of this node"},
		{"10.96.0.1:443", "it is in a network that --egress-closed names"},
	}
	for _, a := range attempts {
		if got := connectThrough(t, c, wide, a.target); !strings.Contains(got, " 403 ") || !strings.Contains(got, "closed by the platform: "+a.why) {
			t.Errorf("%s: the bundle answered %q, want 403 because %s", a.target, got, a.why)
		}
	}
	if got := connectThrough(t, c, wide, "allowed.test:80"); !strings.Contains(got, " 200 ") {
		t.Errorf("allowed.test: the bundle answered %q, want 200", got)
	}
	c.WaitFor(t, wide, "to say that the platform closed node.test", func() bool {
		return wide.Status.Egress != nil && slices.Contains(wide.Status.Egress.ClosedByPlatform, "node.test:10250: an address of this node")
	})

	refused := bottleOn(node1, ns, "closed-refused", "closed-refused")
	refused.Spec.Egress = &v1alpha1.Egress{Allow: []v1alpha1.EgressRule{
		v1alpha1.EgressRule(otherBundle), v1alpha1.EgressRule(node + ":10250"), "172.17.0.1:2375", "10.96.0.1", "allowed.test"}}
	c.Apply(t, refused)
	message := c.WaitReason(t, refused, v1alpha1.ConditionBundleReady, v1alpha1.ReasonEgressRuleRefused).Message
	for rule, why := range map[string]string{
		otherBundle: "it is in the subnet pool 192.168.0.0/16", node + ":10250": "it is an address of this node",
		"172.17.0.1:2375": "it is an address of this node", "10.96.0.1": "it is in --egress-closed 10.96.0.0/16 of the node's agent",
	} {
		if want := fmt.Sprintf("egress rule %q: is closed by the platform: %s", rule, why); !strings.Contains(message, want) {
			t.Errorf("message: got %s, want %s", message, want)
		}
	}
	c.Change(t, refused, func() { refused.Spec.Egress.Allow = []v1alpha1.EgressRule{"allowed.test"} })
	c.WaitRunning(t, refused)
}

// An address that the node gets while a Bottle runs is closed at once, with dockerd
// hanging, and the Bottle keeps running without its rule.
func TestANewNodeAddressIsClosedAtOnce(t *testing.T) {
	c := connect(t)
	b := bottleOn(node1, c.Namespace(t), "closed-later", "closed-later")
	b.Spec.Egress = &v1alpha1.Egress{Allow: []v1alpha1.EgressRule{"203.0.113.98", "allowed.test"}}
	c.Apply(t, b)
	c.WaitRunning(t, b)
	pid := *b.Status.Machine.PID
	rules := func() string {
		return c.Exec(t, node1, "cat", "/var/lib/bottle/bottles/"+string(b.UID)+"/bundle/egress.json")
	}
	if got := rules(); !strings.Contains(got, `"203.0.113.98:443"`) {
		t.Fatalf("rules: got %s, want both to apply", got)
	}
	thaw := c.Freeze(t, node1, "dockerd")
	c.Exec(t, node1, "ip", "addr", "add", "203.0.113.98/32", "dev", "lo")
	t.Cleanup(func() { c.TryExec(t, node1, "ip", "addr", "del", "203.0.113.98/32", "dev", "lo") })
	c.Eventually(t, "the node's new address to be closed, with dockerd hanging", func() (string, bool) {
		got := rules()
		return got, strings.Contains(got, `"allow":["allowed.test:443"]`) && strings.Contains(got, `"203.0.113.98/32"`)
	})
	thaw()
	limited := c.WaitReason(t, b, v1alpha1.ConditionEgressLimited, v1alpha1.ReasonEgressRuleRefused)
	if want := `egress rule "203.0.113.98": is closed by the platform: it is an address of this node`; !strings.Contains(limited.Message, want) {
		t.Errorf("message: got %s, want %s", limited.Message, want)
	}
	c.WaitRunning(t, b)
	if got := *b.Status.Machine.PID; got != pid {
		t.Errorf("machine: got pid %d, want %d, because it keeps running", got, pid)
	}
	c.Exec(t, node1, "ip", "addr", "del", "203.0.113.98/32", "dev", "lo")
	c.WaitFor(t, b, "to have its rule again", func() bool {
		return !strings.Contains(story.Conditions(b), v1alpha1.ConditionEgressLimited) && strings.Contains(rules(), `"203.0.113.98:443"`)
	})
}

// nodeWithServers gives node1 a public address and servers on the ports of the kubelet
// and of a Docker Engine, and returns the node's address on its LAN.
func nodeWithServers(t *testing.T, c *story.Cluster) string {
	t.Helper()
	c.Exec(t, node1, "ip", "addr", "add", publicAddress+"/32", "dev", "lo")
	t.Cleanup(func() { c.TryExec(t, node1, "ip", "addr", "del", publicAddress+"/32", "dev", "lo") })
	for _, port := range []string{"10250", "2375"} {
		pid := strings.TrimSpace(c.Exec(t, node1, "sh", "-c", `busybox httpd -f -p "$1" -h /proc/self/fdinfo </dev/null >/dev/null 2>&1 & echo $!`, "sh", port))
		t.Cleanup(func() { c.TryExec(t, node1, "kill", pid) })
	}
	address := strings.Fields(c.Exec(t, node1, "ip", "-4", "-o", "addr", "show", "dev", "world0"))
	i := slices.Index(address, "inet")
	if i < 0 || i+1 >= len(address) {
		t.Fatalf("the node's address: got %q", address)
	}
	host, _, _ := strings.Cut(address[i+1], "/")
	return host
}

// connectThrough sends a CONNECT from the guest to its bundle and returns the answer.
// The guest keeps its end open for a while: a bundle gives up on a request whose client
// is gone.
func connectThrough(t *testing.T, c *story.Cluster, b *v1alpha1.Bottle, target string) string {
	t.Helper()
	return c.Guest(t, b, "sh", "-c", `{ printf 'CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n' "$1" "$1"; sleep 1; } | nc -w 3 "$BOTTLE_BUNDLE_IP" 8888 | head -c 600; true`, "sh", target)
}
