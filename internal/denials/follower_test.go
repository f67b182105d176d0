// SPDX-License-Identifier: Apache-2.0

package denials_test

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"k8s.io/utils/clock"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/denials"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
)

// TestLeftOutDecisionsAreCounted checks that decisions that the bundle only
// counted are part of the metric, and that they are not listed as destinations.
func TestLeftOutDecisionsAreCounted(t *testing.T) {
	owner := host.Owner{UID: "12345678-0", Slug: "demo", Cluster: "c", Node: "n"}
	networks := hosttest.NewNetworks(nil)
	bundles := hosttest.NewBundles(networks)
	if err := networks.EnsureNetwork(t.Context(), host.Network{Owner: owner, Subnet: netip.MustParsePrefix("192.168.44.0/24")}); err != nil {
		t.Fatal(err)
	}
	if _, err := bundles.EnsureBundle(t.Context(), host.BundleSpec{Owner: owner, IP: netip.MustParseAddr("192.168.44.2")}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	counts := map[string]uint32{}
	published := make(chan struct{}, 10)
	f := denials.New(denials.Options{
		Bundles: bundles, Clock: clock.RealClock{},
		Decided: func(d host.Decision) { mu.Lock(); counts[d.Verdict] += max(1, d.LeftOut); mu.Unlock() },
		Changed: func(string) { published <- struct{}{} },
	})
	f.Bind(t.Context())
	bundles.Decide(owner, host.Decision{Verdict: host.VerdictDeny, LeftOut: 27000})
	bundles.Decide(owner, host.Decision{Verdict: host.VerdictAllow, LeftOut: 3})
	bundles.Decide(owner, host.Decision{Verdict: host.VerdictDeny, Host: "evil.test", Port: 443})
	f.Follow(owner, "container-1", time.Time{}, &v1alpha1.BottleSpec{})
	select {
	case <-published:
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was published within 20 s")
	}
	if got := f.Recent(owner.UID); !slices.Equal(got, []string{"evil.test:443"}) {
		t.Errorf("recent denials: got %q, want evil.test:443", got)
	}
	mu.Lock()
	defer mu.Unlock()
	if counts[host.VerdictDeny] != 27001 || counts[host.VerdictAllow] != 3 {
		t.Errorf("counts: got %v, want 27001 denied and 3 allowed", counts)
	}
}
