// SPDX-License-Identifier: Apache-2.0

package node

import (
	"net/netip"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

func TestLease(t *testing.T) {
	w := newWorld(t)
	l := &Lease{Client: w.Client, Namespace: "bottle-system", Node: testNode, Clock: w.clock}
	get := func() coordinationv1.LeaseSpec {
		t.Helper()
		var got coordinationv1.Lease
		if err := w.Get(t.Context(), types.NamespacedName{Namespace: "bottle-system", Name: "bottle-agent-node-a"}, &got); err != nil {
			t.Fatal(err)
		}
		return got.Spec
	}
	renew := func() {
		t.Helper()
		if err := l.renew(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	renew()
	if got := get(); *got.HolderIdentity != testNode || *got.LeaseDurationSeconds != 40 || !got.RenewTime.Equal(got.AcquireTime) {
		t.Errorf("lease: got %+v, want the node's, for 40 s", got)
	}
	w.clock.Step(renewInterval)
	renew()
	if got := get(); !got.RenewTime.Time.Equal(w.clock.Now()) {
		t.Errorf("renewed at: got %s, want %s", got.RenewTime, w.clock.Now())
	}

	// Another agent of the node writes the Lease, and then somebody deletes it.
	again := &Lease{Client: w.Client, Namespace: "bottle-system", Node: testNode, Clock: w.clock}
	if err := again.renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.clock.Step(renewInterval)
	renew()
	if err := w.Delete(t.Context(), l.held.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	w.clock.Step(renewInterval)
	renew()
	if got := get(); !got.RenewTime.Time.Equal(w.clock.Now()) {
		t.Errorf("created again at: got %s, want %s", got.RenewTime, w.clock.Now())
	}
}

// The Lease says where the agent serves the manager.
func TestLeaseAddress(t *testing.T) {
	for name, tc := range map[string]struct {
		access netip.AddrPort
		node   []corev1.NodeAddress
		want   string
		fails  bool
	}{
		"the Node's":          {netip.AddrPortFrom(netip.Addr{}, 9443), []corev1.NodeAddress{{Type: corev1.NodeExternalIP, Address: "203.0.113.1"}, {Type: corev1.NodeInternalIP, Address: "10.0.0.5"}}, "10.0.0.5:9443", false},
		"the Node's, IPv6":    {netip.AddrPortFrom(netip.Addr{}, 9443), []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "fd00::5"}}, "[fd00::5]:9443", false},
		"the option's":        {netip.MustParseAddrPort("10.9.9.9:1234"), []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.5"}}, "10.9.9.9:1234", false},
		"the agent serves no": {netip.AddrPort{}, []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.5"}}, "", false},
		"the Node has none":   {netip.AddrPortFrom(netip.Addr{}, 9443), nil, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			node := &corev1.Node{}
			node.Name, node.Status.Addresses = testNode, tc.node
			if err := w.Create(t.Context(), node); err != nil {
				t.Fatal(err)
			}
			l := &Lease{Client: w.Client, Namespace: "bottle-system", Node: testNode, Clock: w.clock, Access: tc.access}
			if err := l.findAddress(t.Context()); (err != nil) != tc.fails {
				t.Errorf("got error %v, want one: %t", err, tc.fails)
			}
			if err := l.renew(t.Context()); err != nil {
				t.Fatal(err)
			}
			var got coordinationv1.Lease
			if err := w.Get(t.Context(), types.NamespacedName{Namespace: "bottle-system", Name: "bottle-agent-node-a"}, &got); err != nil {
				t.Fatal(err)
			}
			if got.Annotations[v1alpha1.AnnotationAgentAddress] != tc.want {
				t.Errorf("address: got %q, want %q", got.Annotations[v1alpha1.AnnotationAgentAddress], tc.want)
			}
		})
	}
}
