// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// titleAnnotation holds the file name of a layer, as ORAS and other tools set
// it.
const titleAnnotation = "org.opencontainers.image.title"

// checkDigest fails if the request requires another digest.
func (r request) checkDigest(digest string) error {
	if r.requiredDigest == "" || r.requiredDigest == digest {
		return nil
	}
	return ownErrorf("its sha256 is %s, but %s is required: correct spec.artifact.sha256 if this is the right artifact",
		strings.TrimPrefix(digest, "sha256:"), strings.TrimPrefix(r.requiredDigest, "sha256:"))
}

// obtainArtifact is like obtain, for the verified manifest of an artifact.
func (s *puller) obtainArtifact(ctx context.Context, j *job, c content, doc document) (result, error) {
	layer, err := artifactLayer(doc)
	if err != nil {
		return result{}, err
	}
	res := result{digest: layer.Digest.String()}
	// Check before the first byte is fetched.
	if err := j.checkDigest(res.digest); err != nil {
		return result{}, err
	}
	res.fetched, err = s.fetchOnce(ctx, j, res.digest, func(ctx context.Context, f *fetch) error {
		body, err := c.blob(ctx, layer)
		if err != nil {
			return err
		}
		defer body.Close()
		got, err := s.copyArtifact(body, f.withTotal(layer.Size), res.digest)
		if err == nil && got != res.digest {
			err = corrupted("layer", layer.Digest)
		}
		return err
	})
	return res, err
}

// artifactLayer returns the layer that holds the artifact: the only layer, or
// the only one with a title that ends in .smolmachine.
func artifactLayer(doc document) (v1.Descriptor, error) {
	layers := doc.Layers
	if len(layers) > 1 {
		layers = nil
		for _, l := range doc.Layers {
			if strings.HasSuffix(l.Annotations[titleAnnotation], string(formArtifact)) {
				layers = append(layers, l)
			}
		}
	}
	if len(layers) != 1 {
		return v1.Descriptor{}, ownErrorf("it is not an artifact: of its %d layers, %d are a .smolmachine, want 1: push only that file, for example with oras push",
			len(doc.Layers), len(layers))
	}
	if layers[0].MediaType.IsLayer() {
		return v1.Descriptor{}, ownErrorf("it is a container image: name it in spec.image")
	}
	if layers[0].Size < 0 {
		return v1.Descriptor{}, ownErrorf("the size of its layer is negative")
	}
	return layers[0], checkDigest(layers[0].Digest)
}

// takeLocalArtifact is like takeLocal, for an artifact.
func (s *locals) takeLocalArtifact(ctx context.Context, j *job, f *os.File, info fs.FileInfo) (result, error) {
	if !info.Mode().IsRegular() {
		return result{}, errors.New("it is a folder, want a .smolmachine file")
	}
	if err := s.checkKnown(j); err != nil {
		return result{}, err
	}
	digest, err := s.share(ctx, j, j.fileKey(), func(ctx context.Context, ft *fetch) (string, error) {
		digest, err := s.copyArtifact(steadyReader{contextReader{ctx, f}, f, j.file}, ft.withTotal(info.Size()), j.requiredDigest)
		if err == nil {
			s.recordKnown(j, digest)
			err = j.checkDigest(digest)
		}
		return digest, err
	})
	return result{digest: digest, fetched: true}, err
}

// copyArtifact copies the artifact, which was announced to have f.total bytes,
// into the store and returns its digest. If requiredDigest is not empty and
// differs, it keeps nothing.
func (s *builder) copyArtifact(r io.Reader, f *fetch, requiredDigest string) (string, error) {
	if f.total > s.o.MaxBytes {
		return "", tooLarge(f.total, s.o.MaxBytes)
	}
	room := &space{dir: s.o.Dir, reserve: s.o.Reserve}
	if err := room.check(f.total); err != nil {
		return "", err
	}
	t, err := s.newTemporary()
	if err != nil {
		return "", err
	}
	defer t.discard()
	in := &hashingReader{r: io.LimitReader(r, s.o.MaxBytes+1), sum: sha256.New(), progress: f.add}
	n, err := io.CopyBuffer(&checkedWriter{w: t, space: room}, in, make([]byte, copyBuffer))
	if err != nil {
		return "", err
	}
	if n > s.o.MaxBytes {
		return "", tooLarge(n, s.o.MaxBytes)
	}
	digest := "sha256:" + hexOf(in.sum)
	if requiredDigest != "" && digest != requiredDigest {
		return digest, nil
	}
	return digest, s.keep(t, digest, formArtifact)
}
