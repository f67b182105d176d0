// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// nodeLocalDNS is the address at which NodeLocal DNS listens on each node.
const nodeLocalDNS = "169.254.20.10"

// wantUnreachable probes from inside of the guest, while canaries count what arrives.
func (w *world) wantUnreachable(t *testing.T) {
	n := w.kept.Status.Network
	if n == nil {
		t.Fatal("the Bottle has no network in its status")
	}
	seen := w.countMachine(t, machineIP(w.kept), n.BundleIP)
	w.Exec(t, node, "sh", "-ec", "ip addr replace "+nodeLocalDNS+"/32 dev lo")
	t.Cleanup(func() { w.TryExec(t, node, "ip", "addr", "del", nodeLocalDNS+"/32", "dev", "lo") })
	counter := w.StartCounter(t, w.kept, "")
	defer counter.Stop(t)
	w.claimBundle(t, n.BundleIP)

	pod := w.pods.server.Status.PodIP
	proxy := n.BundleIP + ":8888"
	targets := []string{
		pod + ":" + podPort, w.pods.service.Spec.ClusterIP + ":80", "10.96.0.1:443",
		"10.77.0.11:4999", "10.77.0.11:10250", "10.244.1.1:4999", n.Gateway + ":4999", nodeLocalDNS + ":4999",
	}
	if got := w.reached(t, append(targets, proxy)...); !slices.Equal(got, []string{proxy}) {
		t.Errorf("what the guest can connect to: got %q, want its bundle's proxy only", got)
	}
	// Through its proxy, where a rule of the Bottle covers the Pod, and at the proxy itself,
	// whose address a Service has claimed.
	const fetch = `wget -T 10 -qO- "http://$1" 2>&1; echo; http_proxy= wget -T 10 -qO- "http://$2" 2>&1`
	r := w.Bottle(t, nil, "exec", "-n", w.ns, w.kept.Name, "--", "sh", "-c", fetch, "sh", pod+":"+podPort, proxy)
	if strings.Contains(r.Stdout, "pod server") || !refusals.MatchString(r.Stdout) {
		t.Errorf("HTTP from the guest: got %+v, want two refusals of the proxy", r)
	}
	bundle, strayed := seen()
	if strayed != 0 {
		t.Errorf("packets from the machine to others than its bundle: got %d, want 0", strayed)
	}
	if bundle == 0 {
		t.Error("packets from the machine to its bundle: got 0, so the canary sees nothing")
	}
	if hits, _ := counter.Read(t); hits != 0 {
		t.Errorf("connections at the node's listener: got %d, want 0", hits)
	}
	// The listener does count.
	w.Exec(t, node, "sh", "-c", "busybox nc -w 10 10.77.0.11 4999 </dev/null")
	w.Eventually(t, "the node's listener to count", func() (string, bool) {
		hits, _ := counter.Read(t)
		return fmt.Sprint(hits), hits > 0
	})
}

// refusals are the proxy's answers to a request for a Pod, and to one that is not for a
// proxy.
var refusals = regexp.MustCompile(`(?s)40[03].*\n.*40[03]`)

// reached returns to which of the targets the guest can connect. It also sends each of them
// a query of DNS. A new session takes seconds on an emulated node, so one has to do.
func (w *world) reached(t *testing.T, targets ...string) []string {
	t.Helper()
	const probe = `for target; do
		(timeout 2 nslookup x.test "${target%:*}" >/dev/null 2>&1; nc -w 2 "${target%:*}" "${target#*:}" -e true && echo "$target") &
	done
	wait`
	r := w.Bottle(t, nil, append([]string{"exec", "-n", w.ns, w.kept.Name, "--", "sh", "-c", probe, "sh"}, targets...)...)
	if r.Code != 0 {
		t.Errorf("probes in the guest: got %+v, want exit code 0", r)
	}
	return strings.Fields(r.Stdout)
}

// countMachine counts the IPv4 packets from a machine's address that its wall lets through:
// those to its bundle, and those to anything else. Because of br_netfilter, packets that stay
// in the bridge count, too.
func (w *world) countMachine(t *testing.T, machine, bundle string) func() (toBundle, strayed int) {
	t.Helper()
	beside := w.BesideWall(t, w.kept)
	w.Exec(t, node, append(beside, "sh", "-ec", `
		nft add table ip canary
		nft add counter ip canary bundle
		nft add counter ip canary strayed
		for hook in prerouting input forward; do
			nft add chain ip canary at-$hook "{ type filter hook $hook priority 300 ; }"
			nft add rule ip canary at-$hook ip saddr "$1" ip daddr "$2" counter name bundle
			nft add rule ip canary at-$hook ip saddr "$1" ip daddr != "$2" counter name strayed
		done`, "sh", machine, bundle)...)
	t.Cleanup(func() { w.TryExec(t, node, append(beside, "nft", "delete", "table", "ip", "canary")...) })
	return func() (int, int) {
		var list struct {
			Nftables []struct {
				Counter *struct {
					Name    string
					Packets int
				}
			}
		}
		if err := json.Unmarshal([]byte(w.Exec(t, node, append(beside, "nft", "-j", "list", "counters")...)), &list); err != nil {
			t.Fatal(err)
		}
		packets := map[string]int{}
		for _, o := range list.Nftables {
			if o.Counter != nil {
				packets[o.Counter.Name] = o.Counter.Packets
			}
		}
		return packets["bundle"], packets["strayed"]
	}
}

// claimBundle makes a Service with the bundle's address, so that kube-proxy would lead the
// guest to a Pod instead of its bundle.
func (w *world) claimBundle(t *testing.T, bundle string) {
	t.Helper()
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "claim"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"app": "server"},
			Ports: []corev1.ServicePort{{Port: 8888, TargetPort: intstr.Parse(podPort)}},
		},
	}
	if err := w.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.IgnoreNotFound(w.Delete(context.Background(), s)) })
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: bundle}}
	if err := w.Status().Update(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	w.Eventually(t, "kube-proxy to write rules for the bundle's address", func() (string, bool) {
		r := w.TryExec(t, node, "sh", "-c", "iptables-save -t nat | grep -e '-d "+bundle+"/32'")
		return r.Stdout, r.Code == 0
	})
}
