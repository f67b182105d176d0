// SPDX-License-Identifier: Apache-2.0

package node

import (
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

func TestNode(t *testing.T) {
	tests := map[string]struct {
		before     func(n *corev1.Node, w *world)
		wantLabel  string
		wantAmount string
		wantWrites int
	}{
		"new": {func(*corev1.Node, *world) {}, "ready", "250", 2},
		"already published": {func(n *corev1.Node, _ *world) {
			n.Labels = map[string]string{v1alpha1.LabelAgent: "ready"}
			offer(n, "250")
		}, "ready", "250", 0},
		"lost its capacity": {func(n *corev1.Node, _ *world) {
			n.Labels = map[string]string{v1alpha1.LabelAgent: "ready"}
		}, "ready", "250", 1},
		"set to 0 by an earlier release": {func(n *corev1.Node, _ *world) {
			n.Labels = map[string]string{v1alpha1.LabelAgent: "ready"}
			offer(n, "0")
		}, "ready", "250", 1},
		"cannot run bottles": {func(n *corev1.Node, w *world) {
			n.Labels = map[string]string{v1alpha1.LabelAgent: "ready", "other": "stays"}
			offer(n, "250")
			w.facts.Break("kvm", "closed")
		}, "", "none", 2},
		"docker is down, nothing published": {func(_ *corev1.Node, w *world) { w.facts.Break("docker", "down") }, "", "none", 0},
		"docker is down, set to 0 by an earlier release": {func(n *corev1.Node, w *world) {
			offer(n, "0")
			w.facts.Break("docker", "down")
		}, "", "none", 1},
		"docker is down, only allocatable is left": {func(n *corev1.Node, w *world) {
			offer(n, "250")
			delete(n.Status.Capacity, v1alpha1.ResourceBottle)
			w.facts.Break("docker", "down")
		}, "", "none", 1},
		"no Bottles are allowed": {func(n *corev1.Node, w *world) { w.maxBottles = 0 }, "ready", "none", 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			node := &corev1.Node{}
			node.Name = testNode
			node.Status.Capacity = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("8")}
			w := newWorld(t)
			tt.before(node, w)
			if err := w.Create(t.Context(), node); err != nil {
				t.Fatal(err)
			}
			n := w.reconciler()
			if _, err := n.Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Name: testNode}}); err != nil {
				t.Fatal(err)
			}
			if got := w.writes; len(got) != tt.wantWrites {
				t.Errorf("writes: got %v, want %d", got, tt.wantWrites)
			}
			got := &corev1.Node{}
			if err := w.Get(t.Context(), types.NamespacedName{Name: testNode}, got); err != nil {
				t.Fatal(err)
			}
			if got.Labels[v1alpha1.LabelAgent] != tt.wantLabel {
				t.Errorf("label: got %q, want %q", got.Labels[v1alpha1.LabelAgent], tt.wantLabel)
			}
			if capacity, allocatable := amountIn(got.Status.Capacity), amountIn(got.Status.Allocatable); capacity != tt.wantAmount || allocatable != tt.wantAmount {
				t.Errorf("capacity, allocatable: got %s, %s, want %s", capacity, allocatable, tt.wantAmount)
			}
			if got := got.Status.Capacity.Cpu().String(); got != "8" {
				t.Errorf("capacity of cpu: got %s, want 8, as before", got)
			}
			if _, err := n.Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Name: testNode}}); err != nil {
				t.Fatal(err)
			}
			if got := w.writes; len(got) != tt.wantWrites {
				t.Errorf("writes of a second pass: got %v, want none", got[tt.wantWrites:])
			}
		})
	}
}

func offer(n *corev1.Node, amount string) {
	n.Status.Capacity = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("8"), v1alpha1.ResourceBottle: resource.MustParse(amount)}
	n.Status.Allocatable = n.Status.Capacity.DeepCopy()
}

// amountIn returns how many Bottles a list offers, or "none" if it does not name them.
func amountIn(l corev1.ResourceList) string {
	q, has := l[v1alpha1.ResourceBottle]
	if !has {
		return "none"
	}
	return q.String()
}

func TestKubeletHeartbeatsAreIgnored(t *testing.T) {
	n := newWorld(t).reconciler()
	before := &corev1.Node{}
	offer(before, "250")
	beat := before.DeepCopy()
	beat.ResourceVersion = "2"
	lost := before.DeepCopy()
	lost.Status.Capacity = nil
	if n.changed(event.UpdateEvent{ObjectOld: before, ObjectNew: beat}) {
		t.Errorf("a heartbeat: got a change, want none")
	}
	if !n.changed(event.UpdateEvent{ObjectOld: before, ObjectNew: lost}) {
		t.Errorf("a lost capacity: got no change, want one")
	}
}

// The agent learns of every change of the Node's addresses, including addresses that no
// interface has.
func TestAddressesArePassedOn(t *testing.T) {
	node := &corev1.Node{}
	node.Name = testNode
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: testNode}, {Type: corev1.NodeInternalIP, Address: "10.0.0.5"}}
	w := newWorld(t)
	var got []netip.Addr
	n := New(Options{Client: w.Client, Facts: NewFacts(&w.facts, w.clock), Node: testNode, MaxBottles: 250, Addresses: func(a []netip.Addr) { got = a }})
	if err := w.Create(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	before := node.DeepCopy()
	node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "203.0.113.5"})
	if err := w.Status().Update(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	if !n.changed(event.UpdateEvent{ObjectOld: before, ObjectNew: node}) || n.changed(event.UpdateEvent{ObjectOld: node, ObjectNew: node.DeepCopy()}) {
		t.Error("a new address: got the update ignored, or one without a change not ignored")
	}
	if _, err := n.Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Name: testNode}}); err != nil {
		t.Fatal(err)
	}
	if want := []netip.Addr{netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("203.0.113.5")}; !slices.Equal(got, want) {
		t.Errorf("addresses: got %v, want %v", got, want)
	}
}
