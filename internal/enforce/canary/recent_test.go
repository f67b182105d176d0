// SPDX-License-Identifier: Apache-2.0

package canary

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/host"
)

func TestRepetitions(t *testing.T) {
	now := time.Unix(1000, 0)
	at := func(after time.Duration, remote, nonce string) host.CanaryHit {
		return host.CanaryHit{Time: now.Add(after), Proto: "udp", Remote: netip.MustParseAddrPort(remote), Nonce: nonce}
	}
	r := recent{}
	for i, step := range []struct {
		hit  host.CanaryHit
		want bool
	}{
		{at(0, "10.0.0.1:1", ""), true},
		{at(time.Millisecond, "10.0.0.1:2", ""), false},
		{at(time.Millisecond, "10.0.0.2:1", ""), true},
		{at(time.Millisecond, "10.0.0.1:1", nonce), true},
		{at(time.Second-1, "10.0.0.1:1", ""), false},
		{at(time.Second, "10.0.0.1:1", ""), true},
		{at(-time.Hour, "10.0.0.1:1", ""), true}, // the clock was set
	} {
		if got := r.add(step.hit, 1); got != step.want {
			t.Errorf("step %d: got new %v, want %v", i, got, step.want)
		}
	}
	for i := range 5000 {
		remote := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 1)
		if !r.add(host.CanaryHit{Time: now, Remote: remote}, 1) {
			t.Fatalf("%s: got not new, want every address reported", remote)
		}
		if len(r) > maxRecent {
			t.Fatalf("got %d recorded, want at most %d", len(r), maxRecent)
		}
	}
}

func TestPickAddresses(t *testing.T) {
	var list []net.Addr
	for _, s := range []string{"127.0.0.1/8", "::1/128", "fe80::1/64", "169.254.3.4/16", "2001:db8::5/64", "192.168.44.1/24", "10.0.0.5/24", "fd00::5/64", "10.0.0.5/32", "::ffff:10.0.0.6/120"} {
		prefix := netip.MustParsePrefix(s)
		list = append(list, &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())})
	}
	want := []string{"10.0.0.5", "10.0.0.6", "192.168.44.1", "2001:db8::5", "fd00::5"}
	var got []string
	for _, a := range pickAddresses(list) {
		got = append(got, a.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
	for i := range 1000 {
		list = append(list, &net.IPNet{IP: net.IPv4(10, 1, byte(i>>8), byte(i)), Mask: net.CIDRMask(24, 32)})
	}
	if got := len(pickAddresses(list)); got != 256 {
		t.Errorf("got %d of 1005 addresses, want 256", got)
	}
}

func TestAddresses(t *testing.T) {
	c, _ := start(t)
	got, err := c.Addresses()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSortedFunc(got, netip.Addr.Compare) || slices.ContainsFunc(got, func(a netip.Addr) bool { return a.IsLoopback() || a.IsLinkLocalUnicast() }) {
		t.Errorf("got %v, want the node's addresses in order, without loopback and link-local ones", got)
	}
}
