// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// bundlePort is the port of the default bundle.
const bundlePort = "8888"

// wantNoPodReachesBundle checks that nobody but the machine can use the bundle: no other
// Pod, and not the node.
func (w *world) wantNoPodReachesBundle(t *testing.T) {
	t.Helper()
	ip := w.bundlePodIP(t)
	dial := []string{"nc", "-w", "3", ip, bundlePort}
	if out, err := w.Kubectl(nil, append([]string{"-n", w.ns, "exec", w.pods.client.Name, "--"}, dial...)...); err == nil {
		t.Errorf("a Pod dials the bundle at %s: got a connection, want none\n%s", ip, out)
	}
	if r := w.TryExec(t, node, append([]string{"busybox"}, dial...)...); r.Code == 0 {
		t.Errorf("the node dials the bundle at %s: got a connection, want none\n%s", ip, r.Stdout)
	}
}

// wantBundleListens checks that the bundle does listen on the Pod's address, so that only
// the second filter keeps others from connecting to it.
func (w *world) wantBundleListens(t *testing.T) {
	t.Helper()
	ip := w.bundlePodIP(t)
	enter := w.BesideWall(t, w.kept)
	if r := w.TryExec(t, node, append(enter, "busybox", "nc", "-w", "3", ip, bundlePort)...); r.Code != 0 {
		t.Errorf("the bundle, in its own namespace at %s: got exit code %d %s, want a connection", ip, r.Code, r.Stderr)
	}
}

// bundlePodIP returns the address of the kept Bottle's Pod on the Pods' network.
func (w *world) bundlePodIP(t *testing.T) string {
	t.Helper()
	ip := w.mustKubectl(t, "-n", w.ns, "get", "pod", w.Sandbox(t, w.kept).Pod, "-o", "jsonpath={.status.podIP}")
	if !strings.HasPrefix(ip, "10.244.") {
		t.Fatalf("address of the Bottle's Pod: got %q, want one of the Pods' network", ip)
	}
	return ip
}

// testReach checks that no Pod reaches the bundle, although it listens.
func (w *world) testReach(t *testing.T) {
	w.wantBundleListens(t)
	w.wantNoPodReachesBundle(t)
}

// enforcePolicy stops the Pod's egress on the node, as a network plugin does that enforces a
// NetworkPolicy. The guest then gets nothing from outside through its bundle.
func (w *world) enforcePolicy(t *testing.T) {
	w.Change(t, w.kept, func() { w.kept.Spec.Egress.Allow = append(w.kept.Spec.Egress.Allow, "allowed.test:80") })
	// Other steps also allow the Pods' network, which changes nothing. None allows this host.
	defer w.Change(t, w.kept, func() { w.kept.Spec.Egress.Allow = []v1alpha1.EgressRule{"10.0.0.0/8:" + podPort} })
	const answer = "the outside world"
	fetch := func() string {
		return w.Bottle(t, nil, "exec", "-n", w.ns, w.kept.Name, "--", "sh", "-c", "wget -T 10 -qO- http://allowed.test/ 2>&1; true").Stdout
	}
	wantAnswer := func(when string) {
		t.Helper()
		w.Eventually(t, "the guest to reach an allowed host "+when, func() (string, bool) {
			out := fetch()
			return out, strings.Contains(out, answer)
		})
	}
	wantAnswer("without the policy")
	ip := w.bundlePodIP(t)
	w.Exec(t, node, "sh", "-ec", `
		nft add table ip stops
		nft add counter ip stops stopped
		nft add chain ip stops forward "{ type filter hook forward priority -10 ; }"
		nft add rule ip stops forward ip saddr "$1" counter name stopped drop`, "sh", ip)
	remove := func() { w.TryExec(t, node, "nft", "delete", "table", "ip", "stops") }
	t.Cleanup(remove)
	if out := fetch(); strings.Contains(out, answer) {
		t.Errorf("an allowed host, with the policy: got %q, want no answer", out)
	}
	var packets int
	out := w.Exec(t, node, "sh", "-c", "nft list counter ip stops stopped | tr '\\n' ' '")
	if _, err := fmt.Sscanf(out[strings.Index(out, "packets"):], "packets %d", &packets); err != nil || packets == 0 {
		t.Errorf("packets that the policy stopped: got %q, want some", out)
	}
	remove()
	wantAnswer("after the policy")
}
