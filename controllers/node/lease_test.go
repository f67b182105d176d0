// SPDX-License-Identifier: Apache-2.0

package node

import (
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/types"
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
