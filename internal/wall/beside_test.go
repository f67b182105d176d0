// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/require"
)

// The addresses of a Pod and of NodeLocal DNS. See addPods.
const podIP, nodeLocalDNS = "10.244.1.5", "169.254.20.10"

// foreign are the rules of others, under which a guest must reach its bundle and
// nothing else. Words in capitals are replaced, as in damages.
var foreign = []struct {
	name  string
	lines []string
	// redirects means that, without the wall's help, the guest reaches something else.
	redirects bool
}{
	{"a Service with the bundle's address, by kube-proxy in nftables mode", []string{
		"nft add table ip kube-proxy", "nft add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority dstnat ; }",
		"nft add rule ip kube-proxy nat-prerouting ip daddr BUNDLEIP tcp dport 8888 dnat to " + podIP + ":80"}, true},
	{"a Service with the bundle's address, by kube-proxy in iptables mode", []string{
		"iptables -t nat -A PREROUTING -d BUNDLEIP -p tcp --dport 8888 -j DNAT --to-destination " + podIP + ":80"}, true},
	{"a transparent proxy on the node", []string{"iptables -t nat -A PREROUTING -p tcp --dport 8888 -j REDIRECT --to-ports 80"}, true},
	{"NodeLocal DNS", []string{
		"ip link add nodelocaldns type bridge", "ip addr add " + nodeLocalDNS + "/32 dev nodelocaldns", "ip link set nodelocaldns up",
		"iptables -t nat -A PREROUTING -p tcp --dport 8888 -j DNAT --to-destination " + nodeLocalDNS + ":53"}, true},
	{"policy DROP, with docker's rule and kube-proxy's for invalid packets", []string{
		"iptables -P FORWARD DROP", "iptables -A FORWARD -m conntrack --ctstate INVALID -j DROP", "iptables -A FORWARD -i BRIDGE -o BRIDGE -j ACCEPT"}, false},
	{"a CNI that begins with empty tables", []string{
		"iptables -F", "iptables -t nat -F", "iptables -t mangle -F", "iptables -t raw -F", "iptables -X"}, false},
}

// TestBesideACNI: where a bridge's frames pass the node's IPv4 hooks, the rules that
// others have there cut no guest off from its bundle, and lead none anywhere else.
func TestBesideACNI(t *testing.T) {
	for i, tt := range foreign {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			useBridgeNetfilter(t)
			spec := newSpec(t, 160+i)
			w.addBundle(t, spec, 8888)
			addPods(t)
			t.Cleanup(func() {
				run(t, "iptables", "-P", "FORWARD", "ACCEPT")
				run(t, "nft", "flush", "ruleset")
				_ = deleteLink("nodelocaldns")
			})
			wall := w.stand(t, spec)
			words := strings.NewReplacer("BUNDLEIP", spec.BundleIP.String(), "BRIDGE", spec.Owner.Bridge())
			for _, line := range tt.lines {
				run(t, strings.Fields(words.Replace(line))...)
			}
			strayed := countStrayed(t, spec)
			greet(t, wall, spec)
			if n := strayed(); n != "0" {
				t.Errorf("packets of the machine at the node or a Pod: got %s, want 0", n)
			}
			if got := describe(w.inspect(t, spec).Faults); got != "" {
				t.Errorf("got faults %s, want none", got)
			}
			if !tt.redirects {
				return
			}
			// Without what keeps them away, they do get there: the test can fail.
			must(t, replaceFilter(spec, trackedRules(spec)))
			run(t, "nft", "delete", "table", "ip", bridgesTable)
			_, _ = dial(t, wallNS(t, wall), addrPort(spec.BundleIP, 8888), 300*time.Millisecond)
			if n := strayed(); n == "0" {
				t.Error("with tracked connections, no packet of the machine strayed, so the test proves nothing")
			}
		})
	}
}

// TestAnswersOfABundleAreUntracked: without the bridges' table, a guest loses its bundle
// where invalid packets are dropped.
func TestAnswersOfABundleAreUntracked(t *testing.T) {
	w := newWorld(t)
	useBridgeNetfilter(t)
	spec := newSpec(t, 159)
	w.addBundle(t, spec, 8888)
	wall := w.stand(t, spec)
	t.Cleanup(func() { run(t, "nft", "flush", "ruleset") })
	run(t, "iptables", "-A", "FORWARD", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")
	greet(t, wall, spec)
	run(t, "nft", "delete", "table", "ip", bridgesTable)
	if got, err := dial(t, wallNS(t, wall), addrPort(spec.BundleIP, 8888), 300*time.Millisecond); err == nil {
		t.Errorf("without the table: got %q, want no answer: the test proves nothing", got)
	}
	if _, err := w.walls.EnsureWall(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	greet(t, wall, spec)
}

// TestPodsReachNoBundle: a Pod, which is routed to wherever its node can reach, cannot
// connect to a bundle, even where no other rule forbids it. The bundle can connect to the
// Pod: what it dials is its own decision.
func TestPodsReachNoBundle(t *testing.T) {
	w := newWorld(t)
	useBridgeNetfilter(t)
	spec := newSpec(t, 158)
	w.addBundle(t, spec, 8888)
	pod := addPods(t)
	wall := w.stand(t, spec)
	bundle := w.bundles[spec.Owner.Bridge()]
	must(t, inNetNS(bundle, func(h *netlink.Handle) error {
		eth0, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		return h.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: spec.Subnet.Addr().Next().AsSlice()})
	}))
	if got, err := dial(t, pod, addrPort(spec.BundleIP, 8888), 500*time.Millisecond); err == nil {
		t.Errorf("from a Pod to the bundle: got %q, want no answer", got)
	}
	if got, err := dial(t, bundle, netip.MustParseAddrPort(podIP+":80"), soon); got != "hello" {
		t.Errorf("from the bundle to a Pod: got %q, %v, want hello", got, err)
	}
	greet(t, wall, spec)
	run(t, "nft", "delete", "table", "ip", bridgesTable)
	if got, err := dial(t, pod, addrPort(spec.BundleIP, 8888), soon); got != "hello" {
		t.Errorf("from a Pod to the bundle, without the table: got %q, %v, want hello: the test proves nothing", got, err)
	}
}

// useBridgeNetfilter makes bridged frames pass the IPv4 hooks, and the node a router.
func useBridgeNetfilter(t *testing.T) {
	t.Helper()
	const calls = "/proc/sys/net/bridge/bridge-nf-call-iptables"
	if _, err := os.Stat(calls); err != nil {
		require.Unmet(t, "needs br_netfilter: modprobe br_netfilter")
	}
	must(t, errors.Join(os.WriteFile(calls, []byte("1"), 0o644), os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)))
}

// trackedRules are the rules of a wall without the marking of untracked connections.
func trackedRules(spec host.WallSpec) []rule {
	rules := rulesOf(spec)
	for i, r := range rules {
		rules[i].exprs = nil
		for _, e := range r.exprs {
			if _, ok := e.(*expr.Notrack); !ok {
				rules[i].exprs = append(rules[i].exprs, e)
			}
		}
	}
	return rules
}

// countStrayed counts the packets from the machine that the node receives itself or
// passes on to its Pods.
func countStrayed(t *testing.T, spec host.WallSpec) func() string {
	t.Helper()
	run(t, "nft", "add", "table", "ip", "strayed")
	run(t, "nft", "add", "counter", "ip", "strayed", "seen")
	for hook, match := range map[string]string{"input": "", "forward": `oifname "cni0"`} {
		run(t, "nft", "add", "chain", "ip", "strayed", "at-"+hook, "{ type filter hook "+hook+" priority -200 ; }")
		run(t, "nft", "add", "rule", "ip", "strayed", "at-"+hook, match, "ip", "saddr", spec.MachineIP.String(), "counter", "name", "seen")
	}
	return func() string {
		_, text, _ := strings.Cut(run(t, "nft", "list", "counter", "ip", "strayed", "seen"), "seen {")
		n, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(text), "packets "), " ")
		return n
	}
}

// addPods makes the bridge of a CNI with a Pod that listens on port 80, and returns the
// Pod's network namespace.
func addPods(t *testing.T) *os.File {
	t.Helper()
	run(t, "ip", "link", "add", "cni0", "type", "bridge")
	t.Cleanup(func() { _ = deleteLink("cni0") })
	run(t, "ip", "addr", "add", "10.244.1.1/24", "dev", "cni0")
	run(t, "ip", "link", "set", "cni0", "up")
	ns := anonymousNetNS(t)
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "vethpod"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.Fd())}))
	t.Cleanup(func() { _ = deleteLink("vethpod") })
	run(t, "ip", "link", "set", "vethpod", "master", "cni0", "up")
	must(t, inNetNS(ns, func(h *netlink.Handle) error {
		eth0, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		address := &net.IPNet{IP: net.ParseIP(podIP), Mask: net.CIDRMask(24, 32)}
		return errors.Join(h.AddrAdd(eth0, &netlink.Addr{IPNet: address}), h.LinkSetUp(eth0),
			h.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: net.ParseIP("10.244.1.1")}))
	}))
	listenIn(t, ns, netip.MustParseAddrPort(podIP+":80"))
	return ns
}
