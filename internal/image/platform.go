// SPDX-License-Identifier: Apache-2.0

package image

import (
	"cmp"
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
		available = append(available, platformName(platform{p.OS, p.Architecture, p.Variant}))
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
		return v1.Descriptor{}, ownErrorf("there is no image for %s/%s, only for %s: choose an image for the node's platform, or another node",
			guestOS, arch, cmp.Or(strings.Join(available, ", "), "unnamed platforms"))
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

// The platforms that messages name. Any other name could be text of the registry.
var (
	knownOS           = []string{"aix", "android", "darwin", "dragonfly", "freebsd", "illumos", "js", "linux", "netbsd", "openbsd", "plan9", "solaris", "wasip1", "windows"}
	knownArchitecture = []string{"386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64", "s390x", "wasm"}
	knownVariant      = []string{"v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9"}
)

// platformName returns the name of a platform, or "another platform" if its name is not
// known.
func platformName(p platform) string {
	if !slices.Contains(knownOS, p.OS) || !slices.Contains(knownArchitecture, p.Architecture) {
		return "another platform"
	}
	if slices.Contains(knownVariant, p.Variant) {
		return p.OS + "/" + p.Architecture + "/" + p.Variant
	}
	return p.OS + "/" + p.Architecture
}

// checkPlatform fails if the image's own config names another platform.
func checkPlatform(c platform, arch string) error {
	if c.OS != "" && c.OS != guestOS || c.Architecture != "" && c.Architecture != arch {
		return ownErrorf("the image is for %s, not for %s/%s: choose an image for the node's platform, or another node",
			platformName(c), guestOS, arch)
	}
	return nil
}
