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

// Policy implements host.Machines. Since 1.29.0 the allowed addresses are the
// ones that smolvm lists; everything else is only in its database. For a release
// newer than Reference that has no such database, the list alone counts.
func (d *Driver) Policy(ctx context.Context, name string) (host.Policy, error) {
	c, err := d.supported(ctx)
	if err == nil {
		err = checkName(name)
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

// policyKeys matches the keys of a record that affect what a guest can reach.
// It matches parts of names, so that it also finds keys of future releases.
var policyKeys = regexp.MustCompile(`egress|allow|deny|cidr|dns|net|proxy|intercept|private|udp|port|socket`)

// decodePolicy decodes the policy in a machine's record.
func decodePolicy(record []byte) (host.Policy, error) {
	var p host.Policy
	var all map[string]any
	if err := json.Unmarshal(record, &all); err != nil {
		return p, fmt.Errorf("smolvm's record is not a JSON object: %w", host.ErrUnsupported)
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
		// "network" only states that the machine has a network, which a policy
		// implies.
		if key != "allowed_cidrs" && key != "network" && policyKeys.MatchString(key) && isSet(key, value) {
			p.Extra = append(p.Extra, key)
		}
	}
	slices.Sort(p.Extra)
	return p, nil
}

// isSet reports whether the key has a value other than its zero value.
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
		// block_private lists the private networks that stay open: an empty list
		// still blocks all others.
		return len(v) > 0 || key == "block_private"
	case map[string]any:
		return len(v) > 0
	}
	return true
}
