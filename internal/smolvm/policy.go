// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"fmt"

	"botbottle.dev/bottle-operator/internal/host"
)

// Policy implements host.Machines.
func (d *Driver) Policy(ctx context.Context, name string) (host.Policy, error) {
	c, err := d.capable(ctx)
	if err == nil {
		err = ours(name)
	}
	if err != nil {
		return host.Policy{}, err
	}
	if !c.PolicyInList {
		return host.Policy{}, fmt.Errorf("policy of machine %s: smolvm %s does not show it: %w", name, c.Version, host.ErrUnsupported)
	}
	m, err := d.find(ctx, c, name)
	return host.Policy{AllowedCIDRs: m.AllowedCIDRs}, err
}
