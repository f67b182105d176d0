// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/ownthread"
)

// TryKernel checks whether the kernel can make a wall. It makes a link with a wall's
// filter, and the table of the bridges, in a network namespace of its own, which nothing
// else sees, and reads both back. The namespace ends with the call.
func TryKernel() error {
	spec := host.WallSpec{
		Owner:     host.Owner{UID: "00000000-0000-0000-0000-000000000000", Slug: "preflight"},
		MachineIP: netip.MustParseAddr("192.0.2.3"), BundleIP: netip.MustParseAddr("192.0.2.2"), Ports: []int32{8888},
	}
	want, err := expect(spec)
	if err != nil {
		return err
	}
	return ownthread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer links.Close()
		if err := links.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: spec.Owner.Veth(), TxQLen: -1}, PeerName: innerName, PeerTxQLen: -1}); err != nil {
			return fmt.Errorf("make a link: %w", err)
		}
		if err := replaceFilter(spec, want.rules); err != nil {
			return err
		}
		rules, err := openRuleset()
		if err != nil {
			return err
		}
		defer rules.close()
		written, err := rules.rules(tableName(spec.Owner))
		if err != nil {
			return err
		}
		if !want.equal(written) {
			return errors.New("the kernel changed the filter that was written")
		}
		if err := New(Options{}).ensureBridgesTable(); err != nil {
			return err
		}
		fault, err := bridgesHooks.fault()
		if err == nil && fault != "" {
			err = fmt.Errorf("nftables table ip %s %s", bridgesTable, fault)
		}
		return err
	})
}
