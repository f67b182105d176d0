// SPDX-License-Identifier: Apache-2.0

package surroundings

import (
	"context"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/clock"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/require"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

func ip(t *testing.T, args string) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v\n%s", args, err, out)
	}
}

// addLink adds a bridge, which stands for any interface, until the test ends.
func addLink(t *testing.T, name, address string) {
	t.Helper()
	require.Root(t)
	ip(t, "link add "+name+" type bridge")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", name).Run() })
	ip(t, "link set "+name+" up")
	if address != "" {
		ip(t, "addr add "+address+" dev "+name)
	}
}

// addRoute adds a route until the test ends.
func addRoute(t *testing.T, route string) {
	t.Helper()
	ip(t, "route add "+route)
	t.Cleanup(func() { _ = exec.Command("ip", append([]string{"route", "del"}, strings.Fields(route)...)...).Run() })
}

func TestRoutes(t *testing.T) {
	addLink(t, "eth7", "198.51.100.9/24")
	addLink(t, "wg7", "")
	addLink(t, "bb-1a2b3c4d", "192.168.44.1/24")
	for _, route := range []string{
		"default via 198.51.100.1 dev eth7", "0.0.0.0/1 dev wg7", "128.0.0.0/1 dev wg7 table 51820", // default routes
		"192.168.0.0/16 via 198.51.100.2 dev eth7", "192.168.44.64/26 dev wg7 table 51820",
		"blackhole 192.168.45.0/26", "unreachable 192.168.46.0/24 table 220", "throw 192.168.47.0/24 table 51820",
		"192.168.44.0/25 dev bb-1a2b3c4d table 7", "192.168.48.0/24 nexthop via 198.51.100.3 dev eth7 nexthop via 198.51.100.4 dev eth7",
		"local 192.168.49.0/28 dev eth7",
	} {
		addRoute(t, route)
	}
	got, err := Routes()
	if err != nil {
		t.Fatal(err)
	}
	var text []string
	for _, r := range got {
		if r.Link != "lo" && !netip.MustParsePrefix("198.51.100.0/24").Overlaps(r.Network) {
			text = append(text, r.String())
		}
	}
	want := []string{
		`192.168.0.0/16 ("eth7", table main)`, `192.168.44.64/26 ("wg7", table 51820)`, `192.168.45.0/26 (no interface, table main)`,
		`192.168.46.0/24 (no interface, table 220)`, `192.168.48.0/24 ("eth7", table main)`, `192.168.49.0/28 ("eth7", table local)`,
	}
	if diff := cmp.Diff(want, text); diff != "" {
		t.Errorf("Routes (-want +got):\n%s", diff)
	}
}

func TestConflictIsBounded(t *testing.T) {
	var routes []Route
	for i := range 200 {
		routes = append(routes, Route{Network: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, 44, byte(i)}), 32), Table: 1e9, Link: "\x1b[31mred\xff" + strings.Repeat("x", 9)})
	}
	got := conflict(routes, netip.MustParsePrefix("192.168.44.0/24"))
	if len(got) > 700 || !strings.Contains(got, "and 197 more") || strings.ContainsRune(got, 0x1b) || !utf8.ValidString(got) {
		t.Errorf("got %d bytes: %q, want a bounded message of printable characters", len(got), got)
	}
	if got := conflict(routes, netip.MustParsePrefix("192.168.45.0/24")); got != "" {
		t.Errorf("another subnet: got %q, want none", got)
	}
}

func newSource(t *testing.T, change func(*Options)) *Source {
	t.Helper()
	o := Options{
		Resolve: func(context.Context, string) ([]netip.Addr, error) { return nil, nil },
		Routes:  func() ([]Route, error) { return nil, nil },
		Watch:   func(ctx context.Context, _ func()) error { <-ctx.Done(); return ctx.Err() },
		Clock:   clock.RealClock{}, Log: logr.Discard(),
	}
	change(&o)
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs s until the test ends.
func run(t *testing.T, s *Source) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

// TestRoutesAreFollowed checks the way from the kernel's routes to the Bottles that
// they concern. The periodic reading never happens, so only notifications count.
func TestRoutesAreFollowed(t *testing.T) {
	addLink(t, "eth7", "198.51.100.9/24")
	addLink(t, "bb-1a2b3c4d", "192.168.44.1/24")
	addLink(t, "bb-2a2b3c4d", "192.168.45.1/24")
	s := newSource(t, func(o *Options) {
		o.Routes, o.Watch = Routes, Watch
		o.Clock = neverInterval{}
	})
	reports := make(chan string, 1000)
	s.Subscribe(func(uid string) { reports <- uid })
	mine, other := host.Owner{UID: "mine"}, host.Owner{UID: "other"}
	subnet, otherSubnet := netip.MustParsePrefix("192.168.44.0/24"), netip.MustParsePrefix("192.168.45.0/24")
	inspect := func() string { _, routed := s.Inspect(mine, subnet); return routed }
	if got := inspect(); got != "" {
		t.Fatalf("before: got %q, want no routes", got)
	}
	s.Inspect(other, otherSubnet)
	run(t, s)
	next := func(what, want string) {
		t.Helper()
		timeout := time.After(patience)
		for {
			select {
			case uid := <-reports:
				if uid != mine.UID {
					t.Errorf("%s: got a report about %s", what, uid)
				}
			case <-timeout:
				t.Fatalf("%s: got no report with %q within %s; routes: %q", what, want, patience, inspect())
			}
			if got := inspect(); want == "" && got == "" || want != "" && strings.Contains(got, want) {
				return
			}
		}
	}
	for _, change := range []struct{ what, add, remove, want string }{
		{"a more specific route", "route add 192.168.44.64/26 via 198.51.100.1", "route del 192.168.44.64/26", `192.168.44.64/26 ("eth7", table main)`},
		{"an equal route in a table of its own", "route add 192.168.44.0/24 dev eth7 table 51820", "route flush table 51820", `192.168.44.0/24 ("eth7", table 51820)`},
		{"a blackhole", "route add blackhole 192.168.44.0/26", "route del blackhole 192.168.44.0/26", "192.168.44.0/26 (no interface, table main)"},
		{"an address with its network", "addr add 192.168.44.9/25 dev eth7", "addr del 192.168.44.9/25 dev eth7", `192.168.44.0/25 ("eth7", table main)`},
	} {
		ip(t, change.add)
		next(change.what, change.want)
		ip(t, change.remove)
		next("without "+change.what, "")
	}
	// The kernel does not report the routes that go with an interface.
	addLink(t, "wg7", "")
	ip(t, "route add 192.168.44.128/25 dev wg7")
	next("a route of a VPN", `192.168.44.128/25 ("wg7", table main)`)
	ip(t, "link del wg7")
	next("without the VPN", "")

	// A covering route concerns both Bottles.
	s.Forget(other)
	ip(t, "route add 192.168.0.0/16 via 198.51.100.1")
	next("a covering route", `192.168.0.0/16 ("eth7", table main)`)
	ip(t, "route del 192.168.0.0/16")
	next("without the covering route", "")
}

// neverInterval is the real clock, except that long waits never end.
type neverInterval struct{ clock.RealClock }

func (neverInterval) After(d time.Duration) <-chan time.Time {
	if d >= routesInterval {
		return nil
	}
	return time.After(d)
}
