// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/ownthread"
	"botbottle.dev/bottle-operator/test/require"
)

func TestForwardDrops(t *testing.T) {
	require.Root(t)
	err := ownthread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		wantDrops := func(want bool) {
			if got, err := ForwardDrops(); got != want || err != nil {
				t.Errorf("got %v, %v, want %v", got, err, want)
			}
		}
		wantDrops(false)
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"})
		for _, policy := range []nftables.ChainPolicy{nftables.ChainPolicyAccept, nftables.ChainPolicyDrop} {
			c.AddChain(&nftables.Chain{Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter,
				Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &policy})
			if err := c.Flush(); err != nil {
				return err
			}
			wantDrops(policy == nftables.ChainPolicyDrop)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
