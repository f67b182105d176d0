// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"fmt"
	"runtime"
	"strings"
)

type descriptor struct {
	Digest   string `json:"digest"`
	Platform *struct {
		OS   string `json:"os"`
		Arch string `json:"architecture"`
	} `json:"platform"`
}

func (d descriptor) file() string {
	return "blobs/" + strings.Replace(d.Digest, ":", "/", 1)
}

// manifest returns the names of the configuration and the layers, from
// docker-save's manifest.json or else from the OCI layout's index.json.
func (ix *index) manifest() (config string, layers []string, err error) {
	var saved []struct {
		Config string
		Layers []string
	}
	if _, err := ix.open("manifest.json"); err == nil {
		if err := ix.decode("manifest.json", &saved); err != nil {
			return "", nil, err
		}
		if len(saved) != 1 || saved[0].Config == "" {
			return "", nil, fmt.Errorf("manifest.json names %d images, want 1", len(saved))
		}
		return saved[0].Config, saved[0].Layers, nil
	}
	return ix.ociManifest("index.json", 4)
}

// ociManifest reads a manifest or an index. It follows at most depth nested
// indexes.
func (ix *index) ociManifest(name string, depth int) (string, []string, error) {
	var doc struct {
		Manifests []descriptor `json:"manifests"`
		Config    descriptor   `json:"config"`
		Layers    []descriptor `json:"layers"`
	}
	if err := ix.decode(name, &doc); err != nil {
		return "", nil, err
	}
	if doc.Config.Digest != "" {
		var layers []string
		for _, l := range doc.Layers {
			layers = append(layers, l.file())
		}
		return doc.Config.file(), layers, nil
	}
	if depth == 0 || len(doc.Manifests) == 0 {
		return "", nil, fmt.Errorf("%s names no image", name)
	}
	pick := doc.Manifests[0]
	for _, m := range doc.Manifests {
		if m.Platform != nil && m.Platform.OS == "linux" && m.Platform.Arch == runtime.GOARCH {
			pick = m
			break
		}
	}
	return ix.ociManifest(pick.file(), depth-1)
}
