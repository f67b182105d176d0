// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// savedImage is the content of an archive in docker-save form. Its layers have
// no digests; each has its index in the image's list as its media type.
type savedImage struct {
	content // nil: there are no manifests
	entries entries
	f       *os.File
	layers  []string // names
}

// blob implements content.
func (s savedImage) blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	n, err := strconv.Atoi(string(d.MediaType))
	if err != nil {
		return nil, err
	}
	r, err := s.entries.reader(s.f, s.layers[n])
	if err != nil {
		return nil, err
	}
	return io.NopCloser(contextReader{ctx, r}), nil
}

// saved returns the image of an archive in docker-save form. It fails if a file
// that manifest.json names is missing.
func (e entries) saved(f *os.File) (savedImage, *image, error) {
	none := func(err error) (savedImage, *image, error) { return savedImage{}, nil, err }
	if _, ok := e[saveManifest]; !ok {
		return none(errors.New("it is not an image archive: it has neither manifest.json nor index.json: write it with docker save, podman save or skopeo copy"))
	}
	r, err := e.reader(f, saveManifest)
	if err != nil {
		return none(err)
	}
	var saved []struct {
		Config string
		Layers []string
	}
	if r.Size() > maxManifestBytes || json.NewDecoder(r).Decode(&saved) != nil {
		return none(errors.New("it is not an image archive: its manifest.json cannot be read"))
	}
	if len(saved) != 1 {
		return none(fmt.Errorf("the archive holds %d images, want 1: save a single image", len(saved)))
	}
	img := &image{}
	if img.config, err = e.savedConfig(f, path.Clean(saved[0].Config)); err != nil {
		return none(err)
	}
	out := savedImage{entries: e, f: f}
	for n, name := range saved[0].Layers {
		name = path.Clean(name)
		layer, err := e.reader(f, name)
		if err != nil {
			return none(err)
		}
		out.layers = append(out.layers, name)
		img.layers = append(img.layers, v1.Descriptor{MediaType: types.MediaType(strconv.Itoa(n)), Size: layer.Size()})
	}
	return out, img, img.readSavedDiffIDs()
}

func (e entries) savedConfig(f *os.File, name string) ([]byte, error) {
	r, err := e.reader(f, name)
	if err != nil {
		return nil, err
	}
	if r.Size() > maxImageConfig {
		return nil, fmt.Errorf("its config has %s, more than %s", bytesText(r.Size()), bytesText(maxImageConfig))
	}
	return io.ReadAll(r)
}

// readSavedDiffIDs reads the digests of the layers from the config. An archive
// that was written by hand may have none; its layers are then not verified.
func (i *image) readSavedDiffIDs() error {
	var parsed imageConfig
	if err := json.Unmarshal(i.config, &parsed); err != nil {
		return errNoConfig
	}
	i.diffIDs = parsed.RootFS.DiffIDs
	if len(i.diffIDs) == 0 {
		i.diffIDs = make([]v1.Hash, len(i.layers))
		return nil
	}
	if len(i.diffIDs) != len(i.layers) {
		return fmt.Errorf("it is not an image archive: its config names %d layers, its manifest.json %d", len(i.diffIDs), len(i.layers))
	}
	for _, h := range i.diffIDs {
		if err := checkDigest(h); err != nil {
			return err
		}
	}
	return nil
}
