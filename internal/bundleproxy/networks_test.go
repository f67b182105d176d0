// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"errors"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// TestOwnNetworkIsClosed checks that no rule opens the gateway, the machine or
// the bundle itself, whether by address, by network or by a name that resolves
// there.
func TestOwnNetworkIsClosed(t *testing.T) {
	w := newWorldWith(t, func(o *Options) {
		o.Networks = func() ([]netip.Prefix, error) {
			return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("192.168.44.0/24"), netip.MustParsePrefix("2001:db8:44::/64")}, nil
		}
	}, "192.168.44.1:80", "192.168.0.0/16:80", "0.0.0.0/0:80", "[::/0]:80", "gateway.example.com:80", "203.0.113.0/24:80")
	for _, request := range []string{
		get("http://192.168.44.1/"), get("http://192.168.44.2/"), connect("192.168.44.3:80"), connect("[::ffff:192.168.44.1]:80"),
		connect("[64:ff9b::192.168.44.1]:80"), get("http://[2001:db8:44::1]/"), get("http://gateway.example.com/"),
	} {
		status, body := w.roundTrip(request)
		if status != 403 || !strings.Contains(body, "can never be reached: it is in the bundle's own network") {
			t.Errorf("%q: got %d %q, want 403 with the reason", request, status, body)
		}
	}
	if len(w.dialed) > 0 {
		t.Errorf("dialled: got %v, want nothing", w.dialed)
	}
	for _, request := range []string{get("http://192.168.45.1/"), connect("203.0.113.1:80"), connect("192.0.2.7:80"), connect("198.51.100.7:80")} {
		if status, body := w.roundTrip(request); status != 200 {
			t.Errorf("%q: got %d %q, want 200", request, status, body)
		}
	}
}

// TestNewOwnNetworkIsClosed checks that new networks are closed, together with
// the connections into them, and that networks that cannot be read stay as they
// were.
func TestNewOwnNetworkIsClosed(t *testing.T) {
	w := newWorld(t, "192.168.44.7:443", "203.0.113.7:443")
	inside, insideR := w.tunnel("192.168.44.7:443")
	outside, outsideR := w.tunnel("203.0.113.7:443")
	defer inside.Close()
	defer outside.Close()
	w.setNetworks(nil, "192.168.44.0/24")
	if _, err := insideR.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("tunnel into an own network: got %v, want EOF", err)
	}
	if status, _ := w.roundTrip(connect("192.168.44.7:443")); status != 403 {
		t.Errorf("own network: got %d, want 403", status)
	}
	w.setNetworks(errors.New("no netlink today"))
	// A change of the file makes the proxy read the networks immediately.
	w.writeRules("192.168.44.7:443", "203.0.113.7:443", "203.0.113.8:443")
	w.eventually("the new rule applies", func() bool { s, _ := w.roundTrip(connect("203.0.113.8:443")); return s == 200 })
	if status, _ := w.roundTrip(connect("192.168.44.7:443")); status != 403 {
		t.Errorf("own network that cannot be read: got %d, want 403", status)
	}
	_, _ = io.WriteString(outside, "GET /x HTTP/1.1\r\nHost: kept\r\n\r\n")
	if status, _ := w.readResponse(outsideR); status != 200 {
		t.Errorf("other tunnel: got %d, want 200", status)
	}
	if text := w.log.String(); strings.Count(text, "kept the networks") != 1 || strings.Contains(text, "netlink today") {
		t.Errorf("log: got %s, want one line about the networks", text)
	}
}

func TestRunFailsWithoutNetworks(t *testing.T) {
	none := errors.New("no netlink")
	err := Run(t.Context(), Options{Listen: "127.0.0.1:0", Networks: func() ([]netip.Prefix, error) { return nil, none }})
	if !errors.Is(err, none) {
		t.Errorf("run: got %v, want %v", err, none)
	}
}

func TestInterfaceNetworks(t *testing.T) {
	got, err := interfaceNetworks()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(got, netip.MustParsePrefix("127.0.0.0/8")) {
		t.Errorf("networks: got %v, want the loopback's among them", got)
	}
	for _, n := range got {
		if n != n.Masked() {
			t.Errorf("network: got %s, want no host bits", n)
		}
	}
}
