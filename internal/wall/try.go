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

// trial is the spec of a wall that nothing uses.
var trial = host.WallSpec{
	Owner:     host.Owner{UID: "00000000-0000-0000-0000-000000000000", Slug: "preflight"},
	MachineIP: netip.MustParseAddr("192.0.2.3"), BundleIP: netip.MustParseAddr("192.0.2.2"), Ports: []int32{8888},
}

// TryKernel checks whether the kernel can make a wall. It makes a link with a wall's
// filter, and the table of the bridges, in a network namespace of its own, which nothing
// else sees, and reads both back. The namespace ends with the call.
func TryKernel() error { return tryKernel(trial, bridgesHooks) }

// TryPodKernel does the same for a wall in a Pod, with the table that stands there.
func TryPodKernel() error { return tryKernel(trial, podTable(trial)) }

func tryKernel(spec host.WallSpec, table hookTable) error {
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
		if err := table.ensure(); err != nil {
			return err
		}
		fault, err := table.fault()
		if err == nil && fault != "" {
			err = fmt.Errorf("nftables table %s %s", table, fault)
		}
		return err
	})
}
