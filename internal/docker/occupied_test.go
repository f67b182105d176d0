// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/test/require"
)

// A cloud's default gateway is often in no network of the node: "onlink" says that it
// is reached anyway. A Bottle must not take its address.
func TestGatewaysAreOccupied(t *testing.T) {
	require.Root(t)
	ip := func(args string) {
		t.Helper()
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", args, err, out)
		}
	}
	ip("link add eth7 type bridge")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "eth7").Run() })
	ip("link set eth7 up")
	ip("addr add 198.51.100.9/32 dev eth7")
	ip("route add default via 192.168.44.1 dev eth7 onlink metric 77")
	ip("route add 203.0.113.0/24 nexthop via 192.168.45.1 dev eth7 onlink nexthop via 192.168.46.1 dev eth7 onlink")
	got, err := nodeRoutes(-1)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"192.168.44.1/32", "192.168.45.1/32", "192.168.46.1/32", "203.0.113.0/24"} {
		if !slices.Contains(got, netip.MustParsePrefix(want)) {
			t.Errorf("occupied: got %v, want %s among them", got, want)
		}
	}
	for _, p := range got {
		if p.Bits() == 0 {
			t.Errorf("occupied: got the default route %s", p)
		}
	}
}
