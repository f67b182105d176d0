// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
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
	machine := strings.TrimSuffix(n.BundleIP, ".2") + ".3"
	seen := w.countMachine(t, machine, n.BundleIP)
	w.Exec(t, node, "sh", "-ec", "ip addr replace "+nodeLocalDNS+"/32 dev lo")
	t.Cleanup(func() { w.TryExec(t, node, "ip", "addr", "del", nodeLocalDNS+"/32", "dev", "lo") })
	counter := w.StartCounter(t, w.kept, "")
	defer counter.Stop(t)
	w.claimBundle(t, n.BundleIP)

	pod := w.pods.server.Status.PodIP
	for _, target := range []string{
		pod + " " + podPort, w.pods.service.Spec.ClusterIP + " 80", "10.96.0.1 443",
		"10.77.0.11 4999", "10.77.0.11 10250", "10.244.1.1 4999", n.Gateway + " 4999", nodeLocalDNS + " 4999",
	} {
		r := w.Bottle(t, nil, "exec", "-n", w.ns, w.kept.Name, "--", "sh", "-c", "nc -w 2 "+target+" </dev/null; echo $?; timeout 2 nslookup x.test "+strings.Fields(target)[0]+" >/dev/null; true")
		if r.Code != 0 || strings.HasPrefix(r.Stdout, "0") {
			t.Errorf("from the guest to %s: got %+v, want a refused connection", target, r)
		}
	}
	// Through its proxy, where a rule of the Bottle covers the Pod, and at the proxy itself,
	// whose address a Service has claimed.
	for _, fetch := range []string{"wget -T 10 -qO- http://" + pod + ":" + podPort, "http_proxy= wget -T 10 -qO- http://" + n.BundleIP + ":8888"} {
		r := w.Bottle(t, nil, "exec", "-n", w.ns, w.kept.Name, "--", "sh", "-c", fetch+" 2>&1")
		if strings.Contains(r.Stdout, "pod server") || !strings.Contains(r.Stdout, "403") && !strings.Contains(r.Stdout, "400") {
			t.Errorf("%s: got %+v, want the proxy's refusal", fetch, r)
		}
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

// countMachine counts the IPv4 packets with a machine's address beside its wall: those to its
// bundle, and those to anything else. br_netfilter shows also what stays in the bridge.
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
