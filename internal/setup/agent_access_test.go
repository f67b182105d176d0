// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"net/netip"
	"testing"
)

func TestAdvertised(t *testing.T) {
	internal := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.Addr{}, port) }
	for name, tc := range map[string]struct {
		address, advertise string
		want               netip.AddrPort
		ok                 bool
	}{
		"the defaults":             {":9443", "", internal(9443), true},
		"all addresses":            {"0.0.0.0:9443", "", internal(9443), true},
		"one address":              {"10.0.0.5:9443", "", netip.MustParseAddrPort("10.0.0.5:9443"), true},
		"disabled":                 {"0", "10.0.0.5", netip.AddrPort{}, true},
		"another address":          {":9443", "10.0.0.5", netip.MustParseAddrPort("10.0.0.5:9443"), true},
		"another address and port": {":9443", "[fd00::5]:1234", netip.MustParseAddrPort("[fd00::5]:1234"), true},
		"no port":                  {"10.0.0.5", "", netip.AddrPort{}, false},
		"port 0":                   {":0", "", netip.AddrPort{}, false},
		"a large port":             {":65536", "", netip.AddrPort{}, false},
		"a name":                   {":9443", "node-a", netip.AddrPort{}, false},
		"a loopback address":       {":9443", "127.0.0.1", netip.AddrPort{}, false},
	} {
		o := AgentAccessOptions{Address: tc.address, Advertise: tc.advertise}
		got, err := o.advertised()
		if got != tc.want || (err == nil) != tc.ok {
			t.Errorf("%s: got %s, %v, want %s", name, got, err, tc.want)
		}
	}
}
