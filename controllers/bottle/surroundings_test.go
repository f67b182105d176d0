// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/subnet"
)

// surroundings is a fake with networks and routes that a test sets.
type surroundings struct {
	mu        sync.Mutex
	reserved  []subnet.Reserved
	routes    map[string]string // messages by subnet
	asked     map[string]bool   // by UID
	subscribe func(uid string)
}

func (f *surroundings) Reserved() []subnet.Reserved {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reserved
}

func (f *surroundings) Inspect(owner host.Owner, p netip.Prefix) (hidden, routed string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asked == nil {
		f.asked = map[string]bool{}
	}
	f.asked[owner.UID] = true
	return subnet.Hidden(p, f.reserved), f.routes[p.String()]
}

func (f *surroundings) Forget(owner host.Owner) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.asked, owner.UID)
}

func (f *surroundings) Subscribe(changed func(uid string)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subscribe = changed
}

// set changes what is around, and reports it.
func (f *surroundings) set(edit func(f *surroundings)) {
	f.mu.Lock()
	edit(f)
	changed := f.subscribe
	f.mu.Unlock()
	changed(testUID)
}

func reserve(networks ...string) (out []subnet.Reserved) {
	for _, n := range networks {
		out = append(out, subnet.Reserved{Network: netip.MustParsePrefix(n), By: "the API server"})
	}
	return out
}

func TestReservedNetworks(t *testing.T) {
	inFirst := netip.PrefixFrom(firstChoice.Addr().Next(), 32).String()
	record := func(w *world, p netip.Prefix) {
		w.update(demoKey, func(b *v1alpha1.Bottle) {
			b.Status.Network = &v1alpha1.NetworkStatus{Subnet: p.String(), Gateway: p.Addr().Next().String(), BundleIP: p.Addr().Next().Next().String()}
		})
	}
	for name, tt := range map[string]struct {
		before     func(w *world)
		wantCond   string
		wantSubnet string // in the status; "" for none
		message    string
	}{
		"the slug's choice is reserved": {func(w *world) { w.around.reserved = reserve(inFirst) }, "True/Ready", secondChoice.String(), "allocated"},
		"the choice is recorded, and there is no machine": {func(w *world) {
			w.around.reserved = reserve(inFirst)
			record(w, firstChoice)
		}, "True/Ready", secondChoice.String(), "allocated"},
		"the network exists": {func(w *world) {
			w.around.reserved = reserve(inFirst)
			w.networks.Put(host.Network{Owner: demoOwner, Subnet: firstChoice, Gateway: firstChoice.Addr().Next()})
		}, "True/SubnetReserved", firstChoice.String(), inFirst + " (the API server)"},
		"everything is reserved": {func(w *world) { w.around.reserved = reserve("192.168.0.0/16") },
			"False/SubnetsExhausted", "", "254 by 192.168.0.0/16 (the API server)"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, demo().Obj())
			tt.before(w)
			w.settle(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionNetworkReady, tt.wantCond)
			got := ""
			if n := w.bottle(demoKey).Status.Network; n != nil {
				got = n.Subnet
			}
			if got != tt.wantSubnet {
				t.Errorf("subnet: got %q, want %q", got, tt.wantSubnet)
			}
			if got := w.message(demoKey, v1alpha1.ConditionNetworkReady); !strings.Contains(got, tt.message) {
				t.Errorf("message: got %q, want %q in it", got, tt.message)
			}
		})
	}
}

// A Bottle keeps the subnet that it has when a network there becomes known, and its
// status and one Event say so.
func TestABottleKeepsAReservedSubnet(t *testing.T) {
	w := newWorld(t, demo().Obj())
	w.settle(demoKey)
	w.events()
	before := w.bottle(demoKey).Status
	w.around.set(func(f *surroundings) { f.reserved = reserve(firstChoice.String()) })
	w.settle(demoKey)
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionNetworkReady, "True/SubnetReserved")
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	if got := w.bottle(demoKey).Status; got.Network.Subnet != before.Network.Subnet || cmp.Diff(before.Machine, got.Machine) != "" {
		t.Errorf("status: got %s and %+v, want subnet and machine as before: %s and %+v", got.Network.Subnet, got.Machine, before.Network.Subnet, before.Machine)
	}
	message := w.message(demoKey, v1alpha1.ConditionNetworkReady)
	if !strings.Contains(message, firstChoice.String()+" (the API server)") || !strings.Contains(message, "delete it and create it again") {
		t.Errorf("message: got %q, want the network and the way out", message)
	}
	if got := w.events(); len(got) != 1 || !strings.HasPrefix(got[0], "Warning SubnetReserved ") {
		t.Errorf("events: got %q, want one Warning SubnetReserved", got)
	}
	// The subnet stays even if somebody removes docker's network, because the machine was
	// created with its addresses.
	w.networks.Remove(testID)
	w.settle(demoKey)
	if got := w.bottle(demoKey).Status.Network.Subnet; got != firstChoice.String() {
		t.Errorf("after docker lost the network: got %s, want %s", got, firstChoice)
	}
}

// A route that comes later over the Bottle's subnet is named. Nothing is done to the
// machine and its wall, and everything is as before once the route is gone.
func TestARouteOverTheSubnet(t *testing.T) {
	w := newWorld(t, demo().Obj())
	w.settle(demoKey)
	w.useQueue()
	before := w.bottle(demoKey).Status
	node := w.nodeState()
	w.around.set(func(f *surroundings) { f.routes[firstChoice.String()] = "a route: 192.168.0.0/16" })
	if got := w.nextQueued(); got != demoKey {
		t.Fatalf("queued: got %v, want %v", got, demoKey)
	}
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionNetworkReady, "False/RouteConflict")
	w.wantCond(demoKey, v1alpha1.ConditionReady, "False/RouteConflict")
	w.wantCond(demoKey, v1alpha1.ConditionEgressEnforced, "Unknown/Blocked")
	if got := w.message(demoKey, v1alpha1.ConditionNetworkReady); got != "a route: 192.168.0.0/16" {
		t.Errorf("message: got %q", got)
	}
	if diff := cmp.Diff(node, w.nodeState()); diff != "" {
		t.Errorf("node (-before +after):\n%s", diff)
	}
	w.around.set(func(f *surroundings) { clear(f.routes) })
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	if diff := cmp.Diff(before.Machine, w.bottle(demoKey).Status.Machine); diff != "" {
		t.Errorf("machine (-before +after):\n%s", diff)
	}
	w.remove()
	if len(w.around.asked) != 0 {
		t.Errorf("watched subnets of a Bottle that is gone: got %v, want none", w.around.asked)
	}
}
