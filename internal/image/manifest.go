// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"math"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	maxManifestBytes = 4 << 20 // the limit of registries
	maxImageConfig   = 8 << 20
	maxIndexDepth    = 3
	maxLayers        = 512
)

// content is a source of manifests and blobs: a registry or an OCI layout. It
// verifies nothing that it returns.
type content interface {
	// manifest returns the manifest with this digest. It fails if that is
	// larger than maxManifestBytes.
	manifest(ctx context.Context, digest v1.Hash) ([]byte, error)
	// blob returns the bytes of the blob; the caller closes it.
	blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error)
}

// image is an image with a verified manifest and config.
type image struct {
	digest  v1.Hash
	config  []byte
	name    v1.Hash // digest of the config
	layers  []v1.Descriptor
	diffIDs []v1.Hash
}

// compressed returns the number of bytes to read.
func (i *image) compressed() int64 {
	var n int64
	for _, l := range i.layers {
		n += l.Size
	}
	return n
}

func digestOf(raw []byte) v1.Hash {
	sum := sha256.Sum256(raw)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// descend follows indexes from a verified manifest to the image for the
// architecture.
func descend(ctx context.Context, c content, raw []byte, arch string) (v1.Hash, document, error) {
	for range maxIndexDepth {
		doc, err := parseManifest(raw)
		if err != nil {
			return v1.Hash{}, document{}, err
		}
		if doc.Manifests == nil {
			return digestOf(raw), doc, nil
		}
		d, err := pickPlatform(doc.Manifests, arch)
		if err != nil {
			return v1.Hash{}, document{}, err
		}
		if raw, err = verifiedManifest(ctx, c, d.Digest); err != nil {
			return v1.Hash{}, document{}, err
		}
	}
	return v1.Hash{}, document{}, ownErrorf("indexes are nested more than %d deep", maxIndexDepth)
}

func verifiedManifest(ctx context.Context, c content, digest v1.Hash) ([]byte, error) {
	if err := checkDigest(digest); err != nil {
		return nil, err
	}
	raw, err := c.manifest(ctx, digest)
	if err != nil {
		return nil, err
	}
	if got := digestOf(raw); got != digest {
		return nil, corrupted("manifest", digest)
	}
	return raw, nil
}

func corrupted(what string, digest v1.Hash) error {
	return ownErrorf("the content of %s %s does not match its digest: it was corrupted in the registry, in a mirror or in transit", what, digest)
}

// checkDigest accepts only SHA-256, which the store can verify. It also makes a
// digest safe to use in file names.
func checkDigest(h v1.Hash) error {
	if h.Algorithm != "sha256" || !hexDigest.MatchString(h.Hex) {
		return ownErrorf("a digest in the manifest is not sha256")
	}
	return nil
}

// inspect checks the claimed size of an image, then reads and checks its
// config.
func inspect(ctx context.Context, c content, doc document, o *Options) (*image, error) {
	img := &image{name: doc.Config.Digest, layers: doc.Layers}
	switch doc.Config.MediaType {
	case types.OCIConfigJSON, types.DockerConfigJSON, "":
	default:
		return nil, ownErrorf("it is not a container image but %s", kindOf(doc.Config.MediaType))
	}
	if len(doc.Layers) > maxLayers {
		return nil, ownErrorf("it has %d layers, more than %d", len(doc.Layers), maxLayers)
	}
	parts := append([]v1.Descriptor{doc.Config.Descriptor}, doc.Layers...)
	if size := claimed(parts); size > o.MaxBytes {
		return nil, tooLarge(size, o.MaxBytes)
	}
	for _, d := range parts {
		if err := checkDigest(d.Digest); err != nil {
			return nil, err
		}
	}
	if err := img.readConfig(ctx, c, doc.Config.Descriptor, o.Architecture); err != nil {
		return nil, err
	}
	return img, nil
}

// kindOf says what kind of thing has a config of this media type.
func kindOf(config types.MediaType) string {
	switch config {
	case "application/vnd.cncf.helm.config.v1+json":
		return "a Helm chart"
	case "application/vnd.oci.empty.v1+json":
		return "an artifact"
	}
	return "something else"
}

// claimed returns the sum of all sizes. It returns math.MaxInt64 if one is
// negative or the sum overflows.
func claimed(parts []v1.Descriptor) int64 {
	var sum int64
	for _, d := range parts {
		if d.Size < 0 || d.Size > math.MaxInt64-sum {
			return math.MaxInt64
		}
		sum += d.Size
	}
	return sum
}

func tooLarge(size, limit int64) error {
	return ownErrorf("the image has %s, more than the %s that this node allows (--image-max-bytes): use a smaller image, or raise the limit", bytesText(size), bytesText(limit))
}

func (i *image) readConfig(ctx context.Context, c content, d v1.Descriptor, arch string) error {
	if d.Size > maxImageConfig {
		return ownErrorf("its config has %s, more than %s", bytesText(d.Size), bytesText(maxImageConfig))
	}
	body, err := c.blob(ctx, d)
	if err != nil {
		return err
	}
	defer body.Close()
	if i.config, err = io.ReadAll(io.LimitReader(body, d.Size+1)); err != nil {
		return err
	}
	if digestOf(i.config) != d.Digest {
		return corrupted("config", d.Digest)
	}
	var parsed imageConfig
	if err := json.Unmarshal(i.config, &parsed); err != nil {
		return errNoConfig
	}
	if err := checkPlatform(parsed.platform, arch); err != nil {
		return err
	}
	i.diffIDs = parsed.RootFS.DiffIDs
	if len(i.diffIDs) != len(i.layers) {
		return ownErrorf("it is not a container image: its config names %d layers, its manifest %d", len(i.diffIDs), len(i.layers))
	}
	for _, h := range i.diffIDs {
		if err := checkDigest(h); err != nil {
			return err
		}
	}
	return nil
}
