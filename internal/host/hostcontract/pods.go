// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
)

// TestPodNetworks runs the suite for an implementation that makes each network in a Pod: the
// fixture has Place.
func TestPodNetworks(t *testing.T, fixture func(t *testing.T) NetworksFixture) {
	runNetworkTests(t, fixture, append([]networkTest{{"two on one subnet", networkShared}}, networkTests...))
}

// TestPodBundles runs the suite for an implementation whose containers the kubelet makes:
// the fixture has Run and Place.
func TestPodBundles(t *testing.T, fixture func(t *testing.T) BundlesFixture) {
	runBundleTests(t, fixture, bundleTests)
}

// place makes the place of the network, and returns the network.
func (f NetworksFixture) place(t *testing.T, n host.Network) host.Network {
	t.Helper()
	if f.Place != nil {
		f.Place(t, n.Owner)
	}
	return n
}

// stop makes the owner's container end, by StopBundle if that does it.
func (f BundlesFixture) stop(t *testing.T, owner host.Owner) {
	t.Helper()
	mustDo(t, "stop", f.Bundles.StopBundle(t.Context(), owner))
	if f.Run != nil {
		f.Exit(t, owner)
	}
}

// networkShared checks that networks in different Pods may have the same subnet.
func networkShared(t *testing.T, f NetworksFixture) {
	for range 2 {
		n := f.place(t, newNetwork(newOwner("demo"), "58"))
		mustDo(t, "ensure", f.Networks.EnsureNetwork(t.Context(), n))
		wantNetwork(t, f, n)
	}
}
