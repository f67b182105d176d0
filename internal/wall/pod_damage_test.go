// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// podOnlyDamages are what others do in a Pod's network namespace.
var podOnlyDamages = []damage{
	{name: "ruleset flushed", how: []string{"nft flush ruleset"}, found: []string{"open: filter TABLE is missing", "closed: table inet bottle-pod is missing"}},
	{name: "the Pod's table deleted", how: []string{"nft delete table inet bottle-pod"}, found: []string{"closed: table inet bottle-pod is missing"}, kept: true},
	{name: "the Pod's table switched off", how: []string{"nft add table inet bottle-pod { flags dormant; }"}, found: []string{"closed: table inet bottle-pod is switched off"}, kept: true},
	{name: "the rule against new connections deleted", how: []string{"nft delete rule inet bottle-pod prerouting handle 2"}, found: []string{"closed: table inet bottle-pod has other rules than it should"}, kept: true},
	{name: "the rule for tiny fragments deleted", how: []string{"nft delete rule inet bottle-pod prerouting handle 3"}, found: []string{"closed: table inet bottle-pod has other rules than it should"}, kept: true},
	{name: "chain prerouting flushed", how: []string{"nft flush chain inet bottle-pod prerouting"}, found: []string{"closed: table inet bottle-pod has other rules than it should"}, kept: true},
	{name: "chain prerouting deleted", how: []string{"nft flush chain inet bottle-pod prerouting", "nft delete chain inet bottle-pod prerouting"}, found: []string{"closed: table inet bottle-pod has lost a chain"}, kept: true},
	{name: "a rule before those of prerouting", how: []string{"nft insert rule inet bottle-pod prerouting accept"}, found: []string{"closed: table inet bottle-pod has other rules than it should"}, kept: true},
	{name: "chain prerouting with another policy", how: []string{"nft chain inet bottle-pod prerouting { policy drop; }"}, found: []string{"closed: table inet bottle-pod has lost a chain"}, kept: true},
	{name: "chain for answers flushed", how: []string{"nft flush chain inet bottle-pod output"}, found: []string{"closed: table inet bottle-pod has other rules than it should"}, kept: true},
	{name: "chain for forwarded packets flushed", how: []string{"nft flush chain inet bottle-pod forward"}, found: []string{"closed: table inet bottle-pod has other rules than it should"}, kept: true},
	{name: "forwarding on at the bridge", how: []string{"sysctl -qw net/ipv4/conf/BRIDGE/forwarding=1"}, found: []string{"open: bridge BRIDGE forwards packets"}, kept: true},
	{name: "forwarding on everywhere", how: []string{"sysctl -qw net/ipv4/ip_forward=0", "sysctl -qw net/ipv4/ip_forward=1"}, found: []string{"open: bridge BRIDGE forwards packets"}, kept: true},
	{name: "another link in the bridge", how: []string{"ip link add other type veth peer name another", "ip link set other master BRIDGE"}, found: []string{`closed: link "other" is in bridge BRIDGE`}, kept: true},
	{name: "the Pod's own link in the bridge", how: []string{"ip link set eth0 master BRIDGE"}, found: []string{`closed: link "eth0" is in bridge BRIDGE`}, kept: true},
	{name: "the Pod's own link renamed", how: []string{"ip link set eth0 down", "ip link set eth0 name net7", "ip link set net7 up"}, kept: true},
	{name: "link moved to the node", how: []string{"ip link set VETH netns NODEPID"}, found: []string{"open: link VETH is missing while bundle0 is in the namespace"}},
	{name: "link inside moved to the node", how: []string{"inside ip link set bundle0 netns NODEPID"}, found: []string{"closed: link VETH does not lead into the namespace", "closed: bundle0 is missing in the namespace"}},
	{name: "link renamed", how: []string{"ip link set VETH down", "ip link set VETH name other", "ip link set other up"}, found: []string{"open: link VETH is missing while bundle0 is in the namespace", `closed: link "other" is in bridge BRIDGE`}},
	// The bridge has no other port, and follows it.
	{name: "link of a higher MTU", how: []string{"ip link set VETH mtu 9000"}, found: []string{"closed: bundle0 in the namespace has a different MTU from the bridge"}, kept: true},
	{name: "link of the bundle's MAC", how: []string{"ip link set VETH address BUNDLEMAC"}, found: []string{"open: link VETH has the bundle's MAC address"}, kept: true},
}

// podDamages are these, and the damages that are the same on a node and in a Pod.
func podDamages() []damage {
	all := slices.Clone(podOnlyDamages)
	for _, d := range damages {
		same := !d.ofNode() && !slices.ContainsFunc(podOnlyDamages, func(o damage) bool { return o.name == d.name })
		if same {
			all = append(all, d)
		}
	}
	return all
}

// TestPodDamage: each damage is found, and repaired alone, in both namespaces.
func TestPodDamage(t *testing.T) {
	for i, d := range podDamages() {
		t.Run(d.name, func(t *testing.T) {
			w := newPodWorld(t)
			spec := newSpec(t, 100+i)
			w.addBundle(t, spec, 8888, 9099)
			pod := w.pod(spec.Owner)
			repaired := w.breakAndRepair(t, d, spec, "nsenter", "--net="+pod.path)
			if got, err := dial(t, wallNS(t, repaired), addrPort(pod.ip, 8888), 100*time.Millisecond); err == nil {
				t.Errorf("the Pod's address: got %q, want no answer", got)
			}
			w.wantBundleHidden(t, pod)
		})
	}
}

// wantBundleHidden checks that the node reaches no port of the bundle, declared or not.
func (w *podWorld) wantBundleHidden(t *testing.T, pod *testPod) {
	t.Helper()
	for _, port := range []int32{8888, 9099} {
		if got, err := dialNode(t, addrPort(pod.ip, port), 100*time.Millisecond); err == nil {
			t.Errorf("the bundle's port %d from the node: got %q, want no answer", port, got)
		}
	}
}

// TestPodBridgeTaken: the bridge, which PodWalls does not make, is deleted or renamed.
func TestPodBridgeTaken(t *testing.T) {
	for name, line := range map[string]string{"deleted": "ip link del BRIDGE", "renamed": "ip link set BRIDGE name other"} {
		t.Run(name, func(t *testing.T) {
			w := newPodWorld(t)
			spec, pod, wall := w.standing(t, 60)
			damage{how: []string{line}}.do(t, spec, wall.Path, "nsenter", "--net="+pod.path)
			got := w.inspect(t, spec)
			if len(got.Faults) == 0 || got.Faults[0].What != "bridge "+spec.Owner.Bridge()+" is missing" {
				t.Errorf("faults: got %s, want first that the bridge is missing", describe(got.Faults))
			}
			_, err := w.pods.EnsureWall(t.Context(), spec)
			mustErr(t, "ensure", err, host.ErrNotFound)
			if name == "renamed" {
				runIn(t, pod.path, "ip", "link", "del", "other")
			}
			w.addBridge(t, spec)
			greet(t, w.stand(t, spec), spec)
			w.wantBundleHidden(t, pod)
		})
	}
}

// TestPodBridgeOfAnotherMAC: only the owner of the bridge changes it.
func TestPodBridgeOfAnotherMAC(t *testing.T) {
	w := newPodWorld(t)
	spec, pod, _ := w.standing(t, 61)
	runIn(t, pod.path, "ip", "link", "set", spec.Owner.Bridge(), "address", "02:00:00:00:00:09")
	want := "closed: bridge " + spec.Owner.Bridge() + " does not have the bundle's MAC address"
	wall, err := w.pods.EnsureWall(t.Context(), spec)
	if got := describe(wall.Faults); err != nil || got != want {
		t.Errorf("ensure: got faults %s, %v, want %s", got, err, want)
	}
}

// TestPodLookupFails: the state of a wall whose Pod is not known.
func TestPodLookupFails(t *testing.T) {
	w := newPodWorld(t)
	spec, pod, wall := w.standing(t, 62)
	for _, kind := range []error{host.ErrUnavailable, host.ErrConflict} {
		w.fail(spec.Owner, kind)
		if got := w.inspect(t, spec); !errors.Is(got.Err, kind) || len(got.Faults) > 0 || got.Path != wall.Path {
			t.Errorf("inspect: got %+v, want the error %v and no faults", got, kind)
		}
		_, err := w.pods.EnsureWall(t.Context(), spec)
		mustErr(t, "ensure", err, kind)
		_, err = w.pods.Drops(t.Context(), spec.Owner)
		mustErr(t, "drops", err, kind)
	}
	w.fail(spec.Owner, nil)
	if got := describe(w.inspect(t, spec).Faults); got != "" {
		t.Errorf("known again: got faults %s, want none: it must not have been touched", got)
	}
	// The machine's side goes in any case, but nobody can say that nothing is left.
	w.fail(spec.Owner, host.ErrUnavailable)
	mustErr(t, "delete", w.pods.DeleteWall(t.Context(), spec.Owner), host.ErrUnavailable)
	if links := runIn(t, pod.path, "ip", "link"); strings.Contains(links, spec.Owner.Veth()) {
		t.Errorf("links in the Pod: got\n%s, want no %s", links, spec.Owner.Veth())
	}
	w.fail(spec.Owner, nil)
}

// TestPodOfTheNode: a Pod in the node's own network namespace gets no wall.
func TestPodOfTheNode(t *testing.T) {
	w := newPodWorld(t)
	spec := newSpec(t, 63)
	own, err := processNetNS()
	must(t, err)
	w.all[spec.Owner.ID()] = &testPod{path: "/proc/self/ns/net", id: own}
	_, err = w.pods.EnsureWall(t.Context(), spec)
	mustErr(t, "ensure", err, host.ErrConflict)
	must(t, w.pods.DeleteWall(t.Context(), spec.Owner))
	if got := w.inspect(t, spec); got.Err == nil {
		t.Errorf("inspect: got %+v, want an error", got)
	}
	delete(w.all, spec.Owner.ID())
}
