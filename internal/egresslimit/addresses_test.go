// SPDX-License-Identifier: Apache-2.0

package egresslimit

import (
	"context"
	"net/netip"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/utils/clock"

	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/test/require"
)

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %q: %v\n%s", args, err, out)
	}
}

// addLink adds a link of this kind that exists until the test ends.
func addLink(t *testing.T, name string, addresses ...string) {
	t.Helper()
	require.Root(t)
	ip(t, "link", "add", name, "type", "bridge")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", name).Run() })
	ip(t, "link", "set", name, "up")
	for _, a := range addresses {
		ip(t, "addr", "add", a, "dev", name)
	}
}

func by(t *testing.T, network string) []egress.ClosedBy {
	t.Helper()
	list, err := Addresses()
	if err != nil {
		t.Fatal(err)
	}
	var out []egress.ClosedBy
	for _, c := range list {
		if c.Network == netip.MustParsePrefix(network) && !slices.Contains(out, c.By) {
			out = append(out, c.By)
		}
	}
	return out
}

func TestAddresses(t *testing.T) {
	addLink(t, "eth9", "198.51.100.9/24", "198.51.100.19/24", "2001:db8:77::2/64")
	addLink(t, "docker0", "172.17.0.1/16")
	addLink(t, "bb-1a2b3c4d", "10.40.3.1/24")
	ip(t, "link", "add", "kube-ipvs0", "type", "bridge") // it stays down, as kube-proxy's does
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "kube-ipvs0").Run() })
	ip(t, "addr", "add", "10.96.0.10/32", "dev", "kube-ipvs0")
	ip(t, "link", "set", "lo", "up")
	ip(t, "addr", "add", "203.0.113.80/32", "dev", "lo")
	ip(t, "route", "add", "local", "203.0.113.128/28", "dev", "lo")
	ip(t, "-6", "route", "add", "local", "2001:db8:99::/64", "dev", "lo")
	ip(t, "route", "add", "local", "0.0.0.0/0", "dev", "lo", "table", "100") // a transparent proxy's
	t.Cleanup(func() {
		for _, args := range [][]string{{"addr", "del", "203.0.113.80/32", "dev", "lo"}, {"route", "del", "local", "203.0.113.128/28"},
			{"-6", "route", "del", "local", "2001:db8:99::/64"}, {"route", "flush", "table", "100"}} {
			_ = exec.Command("ip", args...).Run()
		}
	})
	for network, want := range map[string][]egress.ClosedBy{
		"198.51.100.9/32": {egress.ByNode}, "198.51.100.19/32": {egress.ByNode}, "2001:db8:77::2/128": {egress.ByNode}, "172.17.0.1/32": {egress.ByNode},
		"10.40.3.1/32": {egress.ByNode}, "10.40.3.0/24": {egress.ByBottle}, "10.96.0.10/32": {egress.ByNode}, "203.0.113.80/32": {egress.ByNode},
		"203.0.113.128/28": {egress.ByNode}, "2001:db8:99::/64": {egress.ByNode},
		"198.51.100.0/24": nil, "172.17.0.0/16": nil, "0.0.0.0/0": nil, "2001:db8:77::/64": nil,
	} {
		if got := by(t, network); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", network, got, want)
		}
	}
}

// TestRunFollowsTheNode checks the whole way from an address that the kernel gets to
// the limits.
func TestRunFollowsTheNode(t *testing.T) {
	addLink(t, "eth9", "198.51.100.9/24")
	s := newSource(t, func(o *Options) { o.Addresses, o.Watch = Addresses, Watch })
	applied := make(chan egress.Limits, 100)
	run(t, s, func() error { applied <- s.Limits(); return nil })
	next := func(what string, closed func(func(string) bool) bool) {
		t.Helper()
		timeout := time.After(interval / 2) // before the next reading without a notification
		for {
			select {
			case l := <-applied:
				if closed(func(a string) bool { return l.Closes(netip.MustParsePrefix(a)) }) {
					return
				}
			case <-timeout:
				t.Fatalf("%s: got no such limits within %s; they are %v", what, interval/2, s.Limits().Closed)
			}
		}
	}
	next("at the start", func(closed func(string) bool) bool {
		return closed("198.51.100.9/32") && closed("192.168.44.1/32") && closed("10.96.0.1/32") && !closed("198.51.100.10/32")
	})
	ip(t, "addr", "add", "198.51.100.10/24", "dev", "eth9")
	next("a new address", func(closed func(string) bool) bool { return closed("198.51.100.10/32") })
	ip(t, "-6", "addr", "add", "2001:db8:77::3/64", "dev", "eth9", "nodad")
	next("a new IPv6 address", func(closed func(string) bool) bool { return closed("2001:db8:77::3/128") })
	ip(t, "addr", "del", "198.51.100.10/24", "dev", "eth9")
	next("an address that is gone", func(closed func(string) bool) bool { return !closed("198.51.100.10/32") })
	addLink(t, "br9", "172.18.0.1/16")
	next("a new interface", func(closed func(string) bool) bool { return closed("172.18.0.1/32") })
	// A new Bottle's bridge is in the pool already: the other Bottles' files stay as
	// they are.
	for len(applied) > 0 {
		<-applied
	}
	before := s.Limits().Closed
	addLink(t, "bb-5a2b3c4d", "192.168.77.1/24")
	if err := s.read(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.Limits().Closed, before) {
		t.Errorf("after a Bottle's bridge: got %v, want no change of %v", s.Limits().Closed, before)
	}
}

// Routes to other hosts are not addresses of the node.
func TestWatchIgnoresOtherRoutes(t *testing.T) {
	// Without an IPv6 address, which the kernel would report again when it has probed it.
	require.Root(t)
	ip(t, "link", "add", "eth8", "type", "bridge")
	t.Cleanup(func() { ip(t, "link", "del", "eth8") })
	ip(t, "link", "set", "eth8", "addrgenmode", "none", "up")
	ip(t, "addr", "add", "198.51.100.40/24", "dev", "eth8")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes := make(chan struct{}, 1000)
	go func() { _ = Watch(ctx, func() { changes <- struct{}{} }) }()
	next := func(what string) {
		t.Helper()
		select {
		case <-changes:
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: got no change", what)
		}
	}
	next("the beginning")
	ip(t, "route", "add", "203.0.113.0/24", "via", "198.51.100.1", "dev", "eth8")
	ip(t, "route", "del", "203.0.113.0/24")
	ip(t, "route", "add", "local", "203.0.113.128/28", "dev", "eth8")
	next("a local route") // the kernel reports routes in order
	select {
	case <-changes:
		t.Error("routes to elsewhere: got a change, want none")
	case <-time.After(300 * time.Millisecond):
	}
}

func newSource(t *testing.T, change func(*Options)) *Source {
	t.Helper()
	o := Options{
		Pool: netip.MustParsePrefix("192.168.0.0/16"), Closed: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")},
		Addresses: func() ([]egress.Closed, error) { return nil, nil },
		Watch:     func(ctx context.Context, _ func()) error { <-ctx.Done(); return ctx.Err() },
		Clock:     clock.RealClock{}, Log: logr.Discard(),
	}
	change(&o)
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs the Source until the test ends.
func run(t *testing.T, s *Source, apply func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx, apply) }()
	t.Cleanup(func() { cancel(); <-done })
}
