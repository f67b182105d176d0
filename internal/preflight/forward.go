// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"fmt"

	"github.com/google/nftables"
)

// ForwardDrops reports whether the policy of the chain FORWARD is DROP, as iptables-nft
// sets it. It does not see the rules of iptables-legacy.
func ForwardDrops() (bool, error) {
	c, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open nftables: %w", err)
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return false, fmt.Errorf("list nftables chains: %w", err)
	}
	for _, chain := range chains {
		if chain.Table != nil && chain.Table.Name == "filter" && chain.Name == "FORWARD" && chain.Policy != nil && *chain.Policy == nftables.ChainPolicyDrop {
			return true, nil
		}
	}
	return false, nil
}
