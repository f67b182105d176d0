// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// maxDescriptors bounds the number of entries in one list of a manifest.
const maxDescriptors = 1000

// document is any manifest, and imageConfig is any config. They hold only the
// fields that the store uses. In the types of package v1, a few megabytes of
// JSON can take a hundred times as much memory, and whoever names a registry
// chooses what it sends.
type document struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     types.MediaType `json:"mediaType"`
	Manifests     descriptors     `json:"manifests"`
	Config        *slimDescriptor `json:"config"`
	Layers        descriptors     `json:"layers"`
}

type imageConfig struct {
	platform
	RootFS struct {
		DiffIDs []v1.Hash `json:"diff_ids"`
	} `json:"rootfs"`
}

type platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
}

// parseManifest parses an index or the manifest of one image. It fails if raw
// is both or neither.
func parseManifest(raw []byte) (document, error) {
	var d document
	if err := json.Unmarshal(raw, &d); errors.Is(err, errTooMany) {
		return document{}, ownErrorf("the manifest %w", errTooMany)
	} else if err != nil {
		return document{}, ownErrorf("the manifest is not JSON")
	}
	switch {
	case d.SchemaVersion == 1:
		return document{}, ownErrorf("the manifest has Docker's schema 1, which is not supported: push the image again with a current tool")
	case d.Manifests != nil && (d.Config != nil || d.Layers != nil):
		return document{}, ownErrorf("the manifest is both an index and an image")
	case d.Manifests == nil && d.Config == nil:
		return document{}, ownErrorf("the manifest is neither an index nor an image")
	}
	return d, nil
}

var errTooMany = fmt.Errorf("has a list of more than %d entries", maxDescriptors)

// slimDescriptor is a descriptor without the fields that the store does not
// use.
type slimDescriptor struct{ v1.Descriptor }

// UnmarshalJSON implements json.Unmarshaler.
func (d *slimDescriptor) UnmarshalJSON(raw []byte) error {
	var slim struct {
		MediaType   types.MediaType `json:"mediaType"`
		Size        int64           `json:"size"`
		Digest      v1.Hash         `json:"digest"`
		Platform    *platform       `json:"platform"`
		Annotations struct {
			Title string `json:"org.opencontainers.image.title"`
		} `json:"annotations"`
	}
	if err := json.Unmarshal(raw, &slim); err != nil {
		return err
	}
	d.Descriptor = v1.Descriptor{MediaType: slim.MediaType, Size: slim.Size, Digest: slim.Digest}
	if p := slim.Platform; p != nil {
		d.Platform = &v1.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}
	}
	if title := slim.Annotations.Title; title != "" {
		d.Annotations = map[string]string{titleAnnotation: title}
	}
	return nil
}

type descriptors []v1.Descriptor

// UnmarshalJSON implements json.Unmarshaler. It decodes the entries one by one,
// so that it never holds too many of them.
func (d *descriptors) UnmarshalJSON(raw []byte) error {
	if bytes.Equal(raw, []byte("null")) {
		return nil
	}
	*d = descriptors{}
	in := json.NewDecoder(bytes.NewReader(raw))
	if start, err := in.Token(); err != nil || start != json.Delim('[') {
		return errors.New("not a list")
	}
	for in.More() {
		if len(*d) == maxDescriptors {
			return errTooMany
		}
		var entry slimDescriptor
		if err := in.Decode(&entry); err != nil {
			return err
		}
		*d = append(*d, entry.Descriptor)
	}
	return nil
}
