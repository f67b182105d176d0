// SPDX-License-Identifier: Apache-2.0

package nodeaddr_test

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/nodeaddr"
	"botbottle.dev/bottle-operator/internal/ownthread"
	"botbottle.dev/bottle-operator/test/require"
)

// inNode runs f in a network namespace of its own, with these addresses on its
// loopback interface.
func inNode(t *testing.T, f func() error, own ...string) {
	t.Helper()
	require.Root(t)
	err := ownthread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
		for _, a := range own {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			addr.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(lo, addr); err != nil {
				return err
			}
		}
		return f()
	})
	if err != nil {
		t.Fatal(err)
	}
}

func addrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// Every address counts, whatever its family and scope, as soon as it is there.
func TestLocal(t *testing.T) {
	inNode(t, func() error {
		got, err := nodeaddr.Local()
		if err != nil {
			return err
		}
		want := addrs("10.77.0.11", "127.0.0.1", "192.168.44.1", "::1", "fd00:7::11", "fe80::1")
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("Local (-want +got):\n%s", diff)
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		late, err := netlink.ParseAddr("198.51.100.7/32")
		if err := errors.Join(err, netlink.AddrAdd(lo, late)); err != nil {
			return err
		}
		got, err = nodeaddr.Local()
		if err == nil && len(got) != len(want)+1 {
			t.Errorf("Local after an address was added: got %v, want one more", got)
		}
		return err
	}, "10.77.0.11/24", "192.168.44.1/24", "10.77.0.11/16", "fd00:7::11/64", "fe80::1/64")
}

func TestIsLocal(t *testing.T) {
	inNode(t, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		_, whole, _ := net.ParseCIDR("198.51.100.0/24")
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: whole, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST}); err != nil {
			return err
		}
		for addr, want := range map[string]bool{
			"10.77.0.11": true, "::ffff:10.77.0.11": true, "10.77.0.12": false, "fd00:7::11": true, "fd00:7::12": false,
			"127.0.0.1": true, "127.3.2.1": true, "::1": true, "fe80::1%lo": true, "198.51.100.9": true, "203.0.113.1": false, "2001:db8::1": false,
		} {
			got, err := nodeaddr.IsLocal(netip.MustParseAddr(addr))
			if err != nil || got != want {
				t.Errorf("IsLocal(%s): got %v, %v, want %v", addr, got, err, want)
			}
		}
		return nil
	}, "10.77.0.11/32", "fd00:7::11/128", "fe80::1/64")
}
