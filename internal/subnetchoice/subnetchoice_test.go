// SPDX-License-Identifier: Apache-2.0

package subnetchoice_test

import (
	"errors"
	"net/netip"
	"testing"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/internal/subnet"
	"botbottle.dev/bottle-operator/internal/subnetchoice"
)

var demo = host.Owner{UID: "1a2b3c4d-0000-4000-8000-000000000000", Namespace: "default", Name: "demo", Slug: "demo", Cluster: "c", Node: "n"}

// node is a node whose pool has the subnets 192.168.0.0/24 to 192.168.3.0/24.
type node struct {
	networks *hosttest.Networks
	faults   *hosttest.Faults
	subnetchoice.Chooser
}

func newNode(t *testing.T) *node {
	t.Helper()
	pool, err := subnet.Parse("192.168.0.0/22", 24, nil)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{faults: &hosttest.Faults{}}
	n.networks = hosttest.NewNetworks(n.faults)
	n.Chooser = subnetchoice.Chooser{Networks: n.networks, Pool: pool}
	return n
}

// order returns the subnets in the order in which the pool offers them to the demo Bottle.
func (n *node) order(t *testing.T) (out []netip.Prefix) {
	t.Helper()
	for range 4 {
		triple, err := n.Pool.Pick(demo.Slug, out, nil)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, triple.Subnet)
	}
	return out
}

func TestCreate(t *testing.T) {
	order := newNode(t).order(t)
	first, second, third := order[0], order[1], order[2]
	single := func(p netip.Prefix, host int) []netip.Prefix { // an address of a Pod
		a := p.Addr()
		for range host {
			a = a.Next()
		}
		return []netip.Prefix{netip.PrefixFrom(a, 32)}
	}
	reserved := []subnet.Reserved{{Network: first, By: "the cluster"}}
	for name, tt := range map[string]struct {
		occupied []netip.Prefix
		request  subnetchoice.Request
		want     netip.Prefix
	}{
		"the first choice":                         {nil, subnetchoice.Request{}, first},
		"it is occupied":                           {order[:1], subnetchoice.Request{}, second},
		"it is in use elsewhere":                   {nil, subnetchoice.Request{Reserved: reserved}, second},
		"both":                                     {order[1:2], subnetchoice.Request{Reserved: reserved}, third},
		"the kept subnet":                          {nil, subnetchoice.Request{Kept: third}, third},
		"the kept subnet is occupied":              {order[2:3], subnetchoice.Request{Kept: third}, first},
		"a machine has addresses in use":           {nil, subnetchoice.Request{Kept: first, Reserved: reserved}, first},
		"no machine has addresses in use":          {nil, subnetchoice.Request{Kept: first, Reserved: reserved, Movable: true}, second},
		"no machine has addresses that are OK":     {nil, subnetchoice.Request{Kept: third, Reserved: reserved, Movable: true}, third},
		"a Pod's address is in the first choice":   {single(first, 9), subnetchoice.Request{InPod: true}, second},
		"a Pod's address is in a machine's subnet": {single(third, 9), subnetchoice.Request{Kept: third, InPod: true}, third},
		"a Pod has the bundle's address":           {single(third, 2), subnetchoice.Request{Kept: third, InPod: true}, first},
		"a Pod has the machine's address":          {single(third, 3), subnetchoice.Request{Kept: third, InPod: true}, first},
		"a Pod's address, and no machine yet":      {single(third, 9), subnetchoice.Request{Kept: third, InPod: true, Movable: true}, first},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.networks.Occupy(tt.occupied...)
			tt.request.Owner = demo
			got, err := n.Create(t.Context(), tt.request)
			if err != nil || got.Subnet != tt.want {
				t.Fatalf("got %s, %v, want %s", got.Subnet, err, tt.want)
			}
			made := n.networks.All()[demo.ID()]
			if made.Owner != demo || made.Subnet != tt.want || made.Gateway != got.Gateway || len(n.networks.All()) != 1 {
				t.Errorf("networks: got %v, want only that of %s on %s", n.networks.All(), demo.ID(), tt.want)
			}
		})
	}
}

// TestRefusedSubnets checks that a subnet which docker refuses, although the node's tables
// do not have it, is not tried again.
func TestRefusedSubnets(t *testing.T) {
	n := newNode(t)
	n.faults.Fail("EnsureNetwork", hosttest.Before, 2, host.ErrOverlap)
	if got, err := n.Create(t.Context(), subnetchoice.Request{Owner: demo}); err != nil || got.Subnet != n.order(t)[2] {
		t.Errorf("got %s, %v, want the third choice", got.Subnet, err)
	}
}

// TestNoSubnet checks that a lack of subnets is waited for.
func TestNoSubnet(t *testing.T) {
	wanted := func(t *testing.T, err error) {
		t.Helper()
		var waiting *flow.Waiting
		if !errors.As(err, &waiting) || waiting.Reason != v1alpha1.ReasonSubnetsExhausted || waiting.After <= 0 {
			t.Errorf("got %v, want to wait with reason %s", err, v1alpha1.ReasonSubnetsExhausted)
		}
	}
	n := newNode(t)
	n.networks.Occupy(netip.MustParsePrefix("192.168.0.0/16"))
	_, err := n.Create(t.Context(), subnetchoice.Request{Owner: demo})
	wanted(t, err)
	n.networks.Occupy()
	n.faults.Fail("EnsureNetwork", hosttest.Before, hosttest.Always, host.ErrOverlap)
	_, err = n.Create(t.Context(), subnetchoice.Request{Owner: demo})
	wanted(t, err)
	if len(n.networks.All()) != 0 {
		t.Errorf("got networks %v, want none", n.networks.All())
	}
}

// TestPicksAreBounded checks that one pass does not try a whole pool.
func TestPicksAreBounded(t *testing.T) {
	n := newNode(t)
	n.Pool = subnet.Default()
	n.faults.Fail("EnsureNetwork", hosttest.Before, hosttest.Always, host.ErrOverlap)
	_, err := n.Create(t.Context(), subnetchoice.Request{Owner: demo})
	var waiting *flow.Waiting
	if err == nil || errors.As(err, &waiting) {
		t.Errorf("got %v, want an error that is retried", err)
	}
	if got := len(n.faults.Calls()); got > 20 {
		t.Errorf("got %d calls, want a bounded number", got)
	}
}

// TestOtherErrors checks that errors of the node are returned as they are.
func TestOtherErrors(t *testing.T) {
	for _, call := range []string{"OccupiedPrefixes", "EnsureNetwork"} {
		n := newNode(t)
		n.faults.Fail(call, hosttest.Before, 1, host.ErrUnavailable)
		if _, err := n.Create(t.Context(), subnetchoice.Request{Owner: demo}); !errors.Is(err, host.ErrUnavailable) {
			t.Errorf("%s: got %v, want ErrUnavailable", call, err)
		}
		if got := len(n.faults.Calls()); call == "EnsureNetwork" && got != 2 {
			t.Errorf("%s: got %d calls, want no other subnet tried", call, got)
		}
	}
}
