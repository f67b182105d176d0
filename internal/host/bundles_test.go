// SPDX-License-Identifier: Apache-2.0

package host_test

import (
	"net/netip"
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
)

func TestBundleMAC(t *testing.T) {
	for ip, want := range map[string]string{
		"192.168.44.2":       "02:42:c0:a8:2c:02",
		"10.0.255.1":         "02:42:0a:00:ff:01",
		"2001:db8::1":        "",
		"::ffff:192.168.1.2": "",
	} {
		if got := host.BundleMAC(netip.MustParseAddr(ip)).String(); got != want {
			t.Errorf("BundleMAC(%s): got %q, want %q", ip, got, want)
		}
	}
}
