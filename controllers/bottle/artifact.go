// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
)

// checkArtifact refuses an artifact in two cases: if the node's smolvm may mix
// up artifacts, and if spec.env takes values from Secrets. With an artifact,
// smolvm accepts no Smolfile and drops the values that it is given as files.
// Any other way would put the values into its command line.
func checkArtifact(s *scope) error {
	if !s.version.Artifacts {
		return &flow.Waiting{Reason: v1alpha1.ReasonUnsupportedBySmolvm, After: externalDelay,
			Message: fmt.Sprintf("smolvm %s on the node may give a machine the contents of another artifact: install 1.7.7 or newer, or use spec.image", s.version.Version)}
	}
	var names []string
	for _, v := range s.bottle.Spec.Env {
		if v.ValueFrom != nil && v.ValueFrom.SecretKeyRef != nil {
			names = append(names, v.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return &flow.Terminal{Reason: v1alpha1.ReasonUnsupportedBySmolvm,
		Err: fmt.Errorf("spec.env takes %s from Secrets, which smolvm silently drops for a machine created from an artifact: use spec.image, or let the guest fetch the values through its bundle", strings.Join(names, ", "))}
}

// fromArtifact makes spec use the artifact, and flags instead of a Smolfile.
func fromArtifact(spec *host.MachineSpec, s *scope) {
	spec.Artifact, spec.Image, spec.Smolfile = s.image.Path, "", ""
	spec.AllowCIDR = netip.PrefixFrom(s.triple.BundleIP, s.triple.BundleIP.BitLen())
	env := s.environment()
	for _, name := range slices.Sorted(maps.Keys(env)) {
		spec.Env = append(spec.Env, name+"="+env[name])
	}
}
