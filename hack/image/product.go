// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"botbottle.dev/bottle-operator/hack/internal/imagetar"
)

const labelPrefix = "org.opencontainers.image."

// product is an image for several platforms.
type product struct {
	name, version string
	index         v1.ImageIndex
	platforms     []platformImage
	// about is what the SBOM says beside what it finds in the files.
	about []component
}

// platformImage is a product's image for one platform.
type platformImage struct {
	platform v1.Platform
	image    v1.Image
	entries  []imagetar.File
}

// tag is the product's version as a tag, in which a plus sign is not allowed.
func (p *product) tag() string { return strings.ReplaceAll(p.version, "+", "-") }

// layers are the contents of an image, by layer. What changes least comes first,
// so that nodes and registries keep it across versions.
type layers [][]imagetar.File

// labels returns the labels that all images have.
func labels(r release, own map[string]string) map[string]string {
	all := map[string]string{
		labelPrefix + "revision": r.revision,
		labelPrefix + "created":  r.created.Format("2006-01-02T15:04:05Z"),
		labelPrefix + "vendor":   "Bottle Operator",
	}
	for name, value := range own {
		all[labelPrefix+name] = value
	}
	return all
}

func newPlatformImage(platform v1.Platform, contents layers, config v1.Config, r release) (platformImage, error) {
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	history := v1.History{Created: v1.Time{Time: r.created}, CreatedBy: "hack/image"}
	p := platformImage{platform: platform}
	var additions []mutate.Addendum
	for _, entries := range contents {
		layer, err := newLayer(entries)
		if err != nil {
			return p, err
		}
		additions = append(additions, mutate.Addendum{Layer: layer, History: history, MediaType: types.OCILayer})
		p.entries = append(p.entries, entries...)
	}
	image, err := mutate.Append(base, additions...)
	if err != nil {
		return p, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return p, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = platform.OS, platform.Architecture
	file.Created = v1.Time{Time: r.created}
	file.Config = config
	p.image, err = mutate.ConfigFile(image, file)
	return p, err
}

// setIndex makes the index of the product's platforms.
func (p *product) setIndex(annotations map[string]string) error {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, one := range p.platforms {
		platform := one.platform
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: one.image, Descriptor: v1.Descriptor{Platform: &platform}})
	}
	annotated, ok := mutate.Annotations(index, maps.Clone(annotations)).(v1.ImageIndex)
	if !ok {
		return fmt.Errorf("an annotated index is no index")
	}
	p.index = annotated
	return nil
}
