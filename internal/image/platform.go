// SPDX-License-Identifier: Apache-2.0

package image

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const guestOS = "linux"

// pickPlatform returns the index's entry for the architecture. If several
// variants match, it prefers the one that every CPU of the architecture can
// run.
func pickPlatform(manifests []v1.Descriptor, arch string) (v1.Descriptor, error) {
	if len(manifests) == 1 && manifests[0].Platform == nil {
		return manifests[0], nil // its own config names the platform
	}
	var fitting []v1.Descriptor
	var available []string
	for _, m := range manifests {
		p := m.Platform
		if p == nil || p.OS == "unknown" { // an attestation
			continue
		}
		available = append(available, platformName(p.OS, p.Architecture, p.Variant))
		if p.OS == guestOS && p.Architecture == arch {
			fitting = append(fitting, m)
		}
	}
	if len(fitting) == 0 {
		slices.Sort(available)
		const shown = 12
		if available = slices.Compact(available); len(available) > shown {
			available = append(available[:shown], "…")
		}
		return v1.Descriptor{}, fmt.Errorf("there is no image for %s/%s, only for %s: choose an image for the node's platform, or another node",
			guestOS, arch, cmp.Or(clean(strings.Join(available, ", ")), "unnamed platforms"))
	}
	slices.SortStableFunc(fitting, func(a, b v1.Descriptor) int {
		return variantRank(arch, a.Platform.Variant) - variantRank(arch, b.Platform.Variant)
	})
	return fitting[0], nil
}

func variantRank(arch, variant string) int {
	base := map[string]string{"amd64": "v1", "arm64": "v8"}
	switch variant {
	case "", base[arch]:
		return 0
	}
	return 1
}

func platformName(os, arch, variant string) string {
	if variant != "" {
		return os + "/" + arch + "/" + variant
	}
	return os + "/" + arch
}

// checkPlatform fails if the image's own config names another platform.
func checkPlatform(c platform, arch string) error {
	if c.OS != "" && c.OS != guestOS || c.Architecture != "" && c.Architecture != arch {
		return errors.New(clean(fmt.Sprintf("the image is for %s, not for %s/%s: choose an image for the node's platform, or another node",
			platformName(c.OS, c.Architecture, c.Variant), guestOS, arch)))
	}
	return nil
}
