// SPDX-License-Identifier: Apache-2.0

// Package flatten merges the layers of an image into one. The tree in that layer
// is the one that a container of the image sees on overlayfs: containerd's code
// unpacks each layer into a folder of its own, and the kernel's overlayfs merges
// the folders.
//
// Layers may be hostile. They are unpacked below a folder of mode 0700, in a mount
// namespace in which that folder is the root directory and allows no devices,
// no set-user-ID programs and no execution. Both the namespace and its mounts
// end with the call. What the layers may take is bounded. Errors quote nothing
// of the layers.
//
// The package does not fetch, decompress or verify layers, and knows neither
// manifests nor configs.
package flatten

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// MaxLayers is how many layers overlayfs merges.
const MaxLayers = 499

// Layer is a layer of an image.
type Layer struct {
	// Open returns the layer as an uncompressed tar archive. Flatten reads it
	// to its end, even if the archive is invalid, so that the reader can verify
	// it, and returns the reader's error in preference to its own.
	Open func(ctx context.Context) (io.ReadCloser, error)
}

// Limits bound what Flatten takes.
type Limits struct {
	// MaxBytes bounds all layers together, as they are read and as they are
	// unpacked, and what Flatten writes.
	MaxBytes int64
	// MaxEntries bounds the entries of all layers together, with the folders that
	// they imply.
	MaxEntries int
	// Room is called before the layers take this many more bytes of the disk.
	// Its error ends Flatten, which returns it. Nil means no check.
	Room func(bytes int64) error
}

var (
	// ErrTooLarge means that the layers have more than Limits.MaxBytes.
	ErrTooLarge = errors.New("its layers are too large")
	// ErrTooManyEntries means that the layers have more than Limits.MaxEntries.
	ErrTooManyEntries = errors.New("its layers have too many files")
	// ErrLongNames means that the names of the files are longer than an average
	// that images do not reach.
	ErrLongNames = errors.New("the names of its files are too long")
	// ErrTooManyLayers means that there are more than MaxLayers layers.
	ErrTooManyLayers = fmt.Errorf("it has more than %d layers", MaxLayers)
	// ErrInvalid means that a layer cannot be applied.
	ErrInvalid = errors.New("cannot be applied")
)

// Flatten writes to w, as an uncompressed tar archive, the tree that the layers
// give, the first of which is the lowest. It returns the SHA-256 of the archive
// in hex. The same layers always give the same bytes. Meanwhile it keeps the
// unpacked layers below dir, in a folder that it removes. An error that is not
// one of this package, of a layer or of Limits.Room is about the node.
//
// Flatten needs root, Linux 5.12 or newer, and a file system that overlayfs can
// merge, which is what container engines need too.
func Flatten(ctx context.Context, dir string, layers []Layer, w io.Writer, limits Limits) (string, error) {
	if len(layers) > MaxLayers {
		return "", ErrTooManyLayers
	}
	place, err := newWorkplace(dir)
	if err != nil {
		return "", err
	}
	sum, err := place.flatten(ctx, layers, w, &meter{limits: limits})
	// The folder is removed even if the caller has given up.
	if removed := place.remove(context.WithoutCancel(ctx)); err == nil {
		err = removed
	}
	return sum, err
}

func (p *workplace) flatten(ctx context.Context, layers []Layer, w io.Writer, m *meter) (string, error) {
	for n, layer := range layers {
		if err := p.unpack(ctx, n+1, layer, m); err != nil {
			return "", err
		}
	}
	sum := sha256.New()
	if err := p.merge(ctx, len(layers), io.MultiWriter(w, sum), m.limits.MaxBytes); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
