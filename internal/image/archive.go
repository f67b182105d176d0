// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"botbottle.dev/bottle-operator/internal/flatten"
)

// blockSize is the size of a tar block in bytes.
const blockSize = 512

// maxFiles bounds the entries of an image's layers.
const maxFiles = 2_000_000

// archive writes an image in docker-save form: manifest.json, the config and
// one layer, which is not compressed, so that no guest has to merge or unpack
// layers. The same image always gives the same bytes.
type archive struct {
	f        *os.File
	dir      string // where layers are unpacked meanwhile
	offset   int64
	maxBytes int64
	space    *space
}

// writeImage writes the whole image and verifies all of it.
func (a *archive) writeImage(ctx context.Context, c content, img *image, progress func(n int64)) error {
	layers := make([]flatten.Layer, len(img.layers))
	for i, layer := range img.layers {
		layers[i].Open = func(ctx context.Context) (io.ReadCloser, error) {
			return openLayer(ctx, c, layer, img.diffIDs[i], progress)
		}
	}
	// The front names the layer by its digest, which is not known yet, but has
	// the same length with any digest.
	if err := a.writeFront(img, v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}); err != nil {
		return err
	}
	start := a.offset
	var diffID v1.Hash
	err := a.writeEntry(func(w io.Writer) (name string, err error) {
		limits := flatten.Limits{MaxBytes: a.room(), MaxEntries: maxFiles, Room: a.space.willWrite}
		diffID.Algorithm = "sha256"
		diffID.Hex, err = flatten.Flatten(ctx, a.dir, layers, w, limits)
		if noSpace(err) {
			err = a.space.withNeed(err)
		}
		return layerName(diffID), err
	})
	if err != nil {
		return a.layersError(err)
	}
	if err := a.finish(); err != nil {
		return err
	}
	a.offset = 0
	if err := a.writeFront(img, diffID); err != nil {
		return err
	}
	if a.offset != start {
		return fmt.Errorf("front of the archive: got %d bytes, want %d", a.offset, start)
	}
	return nil
}

// writeFront writes what smolvm reads first.
func (a *archive) writeFront(img *image, diffID v1.Hash) error {
	config, err := flatConfig(img.config, diffID)
	if err != nil {
		return err
	}
	name := digestOf(config).Hex + ".json"
	if err := a.writeFile("manifest.json", saveManifestOf(name, layerName(diffID))); err != nil {
		return err
	}
	return a.writeFile(name, config)
}

// layersError returns the error for the user.
func (a *archive) layersError(err error) error {
	switch {
	case errors.Is(err, flatten.ErrTooLarge), errors.Is(err, errUnpacksTooLarge):
		return ownErrorf("the image unpacks to more than the %s that this node allows (--image-max-bytes): use a smaller image, or raise the limit", bytesText(a.maxBytes))
	case errors.Is(err, flatten.ErrTooManyEntries):
		return ownErrorf("the layers of the image have more than %d files: use an image with fewer", maxFiles)
	case errors.Is(err, flatten.ErrLongNames):
		return ownErrorf("the files of the image's layers have too many long names: use an image with fewer or shorter ones")
	case errors.Is(err, flatten.ErrTooManyLayers):
		return ownErrorf("the image has more than %d layers: build it with fewer", flatten.MaxLayers)
	case errors.Is(err, flatten.ErrInvalid):
		return ownErrorf("the image cannot be unpacked: %w", err)
	}
	return err
}

func layerName(diffID v1.Hash) string             { return diffID.Hex + "/layer.tar" }
func padding(size int64) int64                    { return (blockSize - size%blockSize) % blockSize }
func (a *archive) room() int64                    { return a.maxBytes - a.offset }
func hexOf(sum hash.Hash) string                  { return hex.EncodeToString(sum.Sum(nil)) }
func matchesDigest(sum hash.Hash, h v1.Hash) bool { return hexOf(sum) == h.Hex }

// saveManifestOf returns docker-save's manifest.json.
func saveManifestOf(config, layer string) []byte {
	// It holds only strings, so this cannot fail.
	raw, _ := json.Marshal([]any{struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{config, nil, []string{layer}}})
	return raw
}

func (a *archive) writeFile(name string, data []byte) error {
	return a.writeEntry(func(w io.Writer) (string, error) {
		_, err := w.Write(data)
		return name, err
	})
}

// writeEntry writes a file whose length, content and name write gives. It leaves
// room for the header and fills it in at the end.
func (a *archive) writeEntry(write func(w io.Writer) (name string, err error)) error {
	start := a.offset
	if _, err := a.f.Seek(start+blockSize, io.SeekStart); err != nil {
		return err
	}
	limited := &limitedWriter{w: &checkedWriter{w: a.f, space: a.space}, left: a.room()}
	name, err := write(limited)
	if err != nil {
		return err
	}
	size := limited.n
	header, err := header(name, size)
	if err != nil {
		return err
	}
	if _, err := a.f.WriteAt(header, start); err != nil {
		return err
	}
	if _, err := a.f.Write(make([]byte, padding(size))); err != nil {
		return err
	}
	a.offset = start + blockSize + size + padding(size)
	return nil
}

// limitedWriter counts what is written, and fails after a number of bytes.
type limitedWriter struct {
	w       io.Writer
	n, left int64
}

func (l *limitedWriter) Write(p []byte) (int, error) {
	if l.left -= int64(len(p)); l.left < 0 {
		return 0, errUnpacksTooLarge
	}
	n, err := l.w.Write(p)
	l.n += int64(n)
	return n, err
}

// header returns one block. Its format has room for any size, and it holds no
// time or owner.
func header(name string, size int64) ([]byte, error) {
	var b bytes.Buffer
	err := tar.NewWriter(&b).WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0), Format: tar.FormatGNU,
	})
	if err == nil && b.Len() != blockSize {
		err = fmt.Errorf("header of %s has %d bytes", name, b.Len())
	}
	return b.Bytes(), err
}

func (a *archive) finish() error {
	_, err := a.f.Write(make([]byte, 2*blockSize))
	return err
}

var errUnpacksTooLarge = errors.New("unpacked")
