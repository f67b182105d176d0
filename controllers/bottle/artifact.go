// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

// checkArtifact refuses an artifact where the node's smolvm may take another's
// for it, and where spec.env has values of Secrets: smolvm takes no Smolfile
// beside an artifact, drops what is given as a file, and anything else would be
// in its command line.
func checkArtifact(s *scope) error {
	if !s.version.Artifacts {
		return &flow.Waiting{Reason: v1alpha1.ReasonUnsupportedBySmolvm, After: forSomebody,
			Message: fmt.Sprintf("smolvm %s on the node may hand a machine what another artifact brought: install 1.7.7 or newer, or use spec.image", s.version.Version)}
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
		Err: fmt.Errorf("spec.env takes %s from Secrets, which smolvm drops without a word for a machine that is made of an artifact: use spec.image, or have the guest fetch them by way of its bundle", strings.Join(names, ", "))}
}

// fromArtifact gives the machine by flags what a Smolfile says otherwise.
func fromArtifact(spec *host.MachineSpec, s *scope) {
	spec.Artifact, spec.Image, spec.Smolfile = s.image.Path, "", ""
	spec.AllowCIDR = netip.PrefixFrom(s.triple.BundleIP, s.triple.BundleIP.BitLen())
	for _, name := range slices.Sorted(maps.Keys(s.literals)) {
		spec.Env = append(spec.Env, name+"="+s.literals[name])
	}
}

// artifactOf is spec.artifact as it is recorded; zero for none.
func artifactOf(b *v1alpha1.Bottle) state.Artifact {
	a := b.Spec.Artifact
	if a == nil {
		return state.Artifact{}
	}
	return state.Artifact{Path: ptr.Deref(a.Path, ""), Reference: ptr.Deref(a.Reference, ""), SHA256: ptr.Deref(a.SHA256, "")}
}
