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

// maxDescriptors bounds what one manifest lists.
const maxDescriptors = 1000

// document is any manifest, and imageConfig any config, of which only what
// the store goes by is read, and no more of it than there is reason for: in
// v1's own types a few megabytes of either take a hundred times as much of
// memory, and whoever names a registry chooses what it sends.
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

// parseManifest returns what a manifest says, which is one thing or the other.
func parseManifest(raw []byte) (document, error) {
	var d document
	if err := json.Unmarshal(raw, &d); errors.Is(err, errTooMany) {
		return document{}, fmt.Errorf("the manifest %w", err)
	} else if err != nil {
		return document{}, errors.New("the manifest is not JSON")
	}
	switch {
	case d.SchemaVersion == 1:
		return document{}, errors.New("the manifest is of Docker's schema 1, which is no longer read: push the image again with a current tool")
	case d.Manifests != nil && (d.Config != nil || d.Layers != nil):
		return document{}, errors.New("the manifest is both an index and an image")
	case d.Manifests == nil && d.Config == nil:
		return document{}, errors.New("the manifest is neither an index nor an image")
	}
	return d, nil
}

var errTooMany = fmt.Errorf("lists more than %d things", maxDescriptors)

// described is a descriptor without what the store does not go by.
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

// UnmarshalJSON implements json.Unmarshaler: one after another, so that too
// many of them are never held.
func (d *descriptors) UnmarshalJSON(raw []byte) error {
	if bytes.Equal(raw, []byte("null")) {
		return nil
	}
	*d = descriptors{}
	in := json.NewDecoder(bytes.NewReader(raw))
	if start, err := in.Token(); err != nil || start != json.Delim('[') {
		return errors.New("no list")
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
