// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
	"botbottle.dev/bottle-operator/internal/host"
)

// PolicyCheck describes a machine for CheckPolicy. The policy must be read back
// because some releases of smolvm drop it silently.
type PolicyCheck struct {
	Name string
	// BundleIP is the one address that the machine may reach.
	BundleIP netip.Addr
	// Artifact means that the machine is made from an artifact.
	Artifact bool
	Version  host.SmolvmVersion
}

type policyReader struct {
	machines Machines
}

// check implements Enforcement.CheckPolicy.
func (r policyReader) check(ctx context.Context, m PolicyCheck) (probe.Policy, string, error) {
	p, err := r.machines.Policy(ctx, m.Name)
	switch {
	case errors.Is(err, host.ErrUnsupported):
		return probe.PolicyUnknown, "the machine's policy cannot be read back from smolvm: " + err.Error(), nil
	case err != nil:
		return "", "", err
	}
	want := m.BundleIP.String() + "/32"
	if m.Artifact && !m.Version.ArtifactPolicy && len(p.AllowedCIDRs) == 0 {
		return probe.PolicyDropped, fmt.Sprintf("smolvm %s drops the policy of a machine that is made from an artifact; 1.8.0 and newer keep it", m.Version.Version), nil
	}
	if len(p.AllowedCIDRs) == 1 && p.AllowedCIDRs[0] == want && len(p.Extra) == 0 {
		return probe.PolicyExact, "", nil
	}
	return probe.PolicyDiffers, fmt.Sprintf("smolvm persisted the policy [%s] instead of the requested [%s]",
		strings.Join(append(p.AllowedCIDRs, p.Extra...), " "), want), nil
}
