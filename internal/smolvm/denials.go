// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// Denials implements host.Machines.
func (d *Driver) Denials(ctx context.Context, name string) ([]host.Denial, error) {
	c, err := d.supported(ctx)
	if err == nil {
		err = checkName(name)
	}
	what := "denials of machine " + name
	if err == nil && !c.EgressEvents {
		err = fmt.Errorf("%s: smolvm %s cannot list them: %w", what, c.Version, host.ErrUnsupported)
	}
	if err != nil {
		return nil, err
	}
	res, err := d.run(ctx, call{what: what, args: c.denialsArgs(name), timeout: listTimeout})
	if err != nil {
		return nil, err
	}
	if res.Truncated {
		return nil, fmt.Errorf("%s: %w: smolvm's list is too long", what, host.ErrUnavailable)
	}
	denials, err := decodeDenials(res.Stdout)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", what, host.ErrUnavailable, err)
	}
	return denials, nil
}

// decodeDenials decodes the list. smolvm extracts it from a log that the VMM
// writes, so a destination may be any text. Entries without a valid address are
// left out.
func decodeDenials(b []byte) ([]host.Denial, error) {
	var all []struct {
		Timestamp any `json:"timestamp"`
		Dest      any `json:"dest"`
	}
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, fmt.Errorf("smolvm's output is not a list of denials: %w", err)
	}
	var denials []host.Denial
	for _, e := range all {
		text, _ := e.Dest.(string)
		dest, err := netip.ParseAddrPort(text)
		if err != nil {
			continue
		}
		stamp, _ := e.Timestamp.(string)
		at, _ := time.Parse(time.RFC3339, stamp) // the zero time if it is missing or invalid
		denials = append(denials, host.Denial{Time: at, Dest: dest})
	}
	return denials[max(0, len(denials)-host.MaxDenials):], nil
}
