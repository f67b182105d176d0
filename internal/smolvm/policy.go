// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"

	"botbottle.dev/bottle-operator/internal/host"
)

// Policy implements host.Machines. From 1.29.0 the list of addresses is as
// smolvm shows it; all else is in its database alone. A release newer than the
// newest one measured that keeps no such database is taken by its list.
func (d *Driver) Policy(ctx context.Context, name string) (host.Policy, error) {
	c, err := d.capable(ctx)
	if err == nil {
		err = ours(name)
	}
	if err != nil {
		return host.Policy{}, err
	}
	var shown host.Machine
	if c.PolicyInList {
		if shown, err = d.find(ctx, c, name); err != nil {
			return host.Policy{}, err
		}
	}
	data, err := d.record(ctx, name)
	if c.Newer && (errors.Is(err, host.ErrUnsupported) || errors.Is(err, host.ErrNotFound)) {
		return host.Policy{AllowedCIDRs: shown.AllowedCIDRs}, nil
	}
	var p host.Policy
	if err == nil {
		p, err = decodePolicy(data)
	}
	if err != nil {
		return host.Policy{}, fmt.Errorf("policy of machine %s: %w", name, err)
	}
	if c.PolicyInList {
		p.AllowedCIDRs = shown.AllowedCIDRs
	}
	return p, nil
}

// policyKeys are the keys of a record that have to do with what a guest can
// reach, the ones of releases to come by the words that such keys are made of.
var policyKeys = regexp.MustCompile(`egress|allow|deny|cidr|dns|net|proxy|intercept|private|udp|port|socket`)

// decodePolicy reads a machine's record.
func decodePolicy(record []byte) (host.Policy, error) {
	var p host.Policy
	var all map[string]any
	if err := json.Unmarshal(record, &all); err != nil {
		return p, fmt.Errorf("smolvm's record is no JSON object: %w", host.ErrUnsupported)
	}
	var list struct {
		AllowedCIDRs *[]string `json:"allowed_cidrs"`
	}
	if _, has := all["allowed_cidrs"]; !has || json.Unmarshal(record, &list) != nil {
		return p, fmt.Errorf("smolvm's record has no list of allowed addresses: %w", host.ErrUnsupported)
	}
	if list.AllowedCIDRs != nil {
		p.AllowedCIDRs = *list.AllowedCIDRs
	}
	for key, value := range all {
		// Network says that there is one, which a policy implies.
		if key != "allowed_cidrs" && key != "network" && policyKeys.MatchString(key) && isSet(key, value) {
			p.Extra = append(p.Extra, key)
		}
	}
	slices.Sort(p.Extra)
	return p, nil
}

// isSet tells a key that was given something from one that is only there.
func isSet(key string, value any) bool {
	switch v := value.(type) {
	case nil:
		return false
	case bool:
		return v
	case string:
		return v != ""
	case float64:
		return v != 0
	case []any:
		// What it holds are the private networks that stay open: with none of
		// them it is on.
		return len(v) > 0 || key == "block_private"
	case map[string]any:
		return len(v) > 0
	}
	return true
}
