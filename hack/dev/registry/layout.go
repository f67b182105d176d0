// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// layout is the files of an OCI layout, by path. It is pushed without checks:
// blobs that a manifest names but the layout lacks are skipped.
type layout map[string][]byte

// readLayout returns nil if the archive is not an OCI layout.
func readLayout(archive []byte) (layout, error) {
	l := layout{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if l[path.Clean(h.Name)], err = io.ReadAll(r); err != nil {
			return nil, err
		}
	}
	if l["manifest.json"] != nil || l["index.json"] == nil {
		return nil, nil
	}
	return l, nil
}

func (l layout) blob(digest v1.Hash) []byte {
	return l["blobs/"+digest.Algorithm+"/"+digest.Hex]
}

// manifest is an index or an image manifest, as it is pushed.
type manifest struct {
	Manifests []v1.Descriptor `json:"manifests"`
	Config    *v1.Descriptor  `json:"config"`
	Layers    []v1.Descriptor `json:"layers"`

	raw       []byte
	mediaType types.MediaType
}

func (m manifest) RawManifest() ([]byte, error)        { return m.raw, nil }
func (m manifest) MediaType() (types.MediaType, error) { return m.mediaType, nil } //nolint:unparam // remote.Put checks for this signature

// push pushes the only manifest that index.json names, and everything below it.
// Any other number of manifests is an error.
func (l layout) push(ref name.Reference, o remote.Option) (string, error) {
	var index v1.IndexManifest
	if err := json.Unmarshal(l["index.json"], &index); err != nil {
		return "", err
	}
	if len(index.Manifests) != 1 {
		return "", fmt.Errorf("index.json names %d manifests, want 1", len(index.Manifests))
	}
	top := index.Manifests[0]
	return top.Digest.String(), l.put(ref, top, o)
}

func (l layout) put(ref name.Reference, d v1.Descriptor, o remote.Option) error {
	m := manifest{raw: l.blob(d.Digest), mediaType: d.MediaType}
	if err := json.Unmarshal(m.raw, &m); err != nil {
		return fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	blobs := m.Layers
	if m.Config != nil {
		blobs = append(blobs, *m.Config)
	}
	for _, b := range blobs {
		content := l.blob(b.Digest)
		if content == nil {
			continue
		}
		if err := remote.WriteLayer(ref.Context(), static.NewLayer(content, b.MediaType), o); err != nil {
			return err
		}
	}
	for _, child := range m.Manifests {
		if err := l.put(ref.Context().Digest(child.Digest.String()), child, o); err != nil {
			return err
		}
	}
	return remote.Put(ref, m, o)
}
