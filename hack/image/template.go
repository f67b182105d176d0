// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"botbottle.dev/bottle-operator/hack/internal/imagetar"
	"botbottle.dev/bottle-operator/internal/atomicfile"
	"botbottle.dev/bottle-operator/internal/sparsefile"
)

// templates returns smolvm's templates of disks, 20 and 10 GiB of almost nothing but
// zeros, in the form that the installer unpacks quickly. Reading these zeros here takes
// up to a minute, so cache keeps the result.
func (w *wheel) templates(ctx context.Context, cache string) ([]imagetar.File, error) {
	var entries []imagetar.File
	for _, name := range w.names("*-template.ext4.zst") {
		base := strings.TrimSuffix(path.Base(name), ".zst") + sparsefile.Suffix
		packed := w.files[name]
		content, err := cached(filepath.Join(cache, sha256Hex(packed)+"-"+base), func() ([]byte, error) { return encodeTemplate(ctx, packed) })
		if err != nil {
			return nil, fmt.Errorf("unpack %s: %w", name, err)
		}
		entries = append(entries, imagetar.Regular(payload+base, 0o644, content))
	}
	return entries, nil
}

func encodeTemplate(ctx context.Context, packed []byte) ([]byte, error) {
	d, err := zstd.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	var out bytes.Buffer
	err = sparsefile.Encode(ctx, &out, d)
	return out.Bytes(), err
}

// cached returns what file has, or else what encode returns, and keeps that in file. A
// file in another version of the format is encoded again.
func cached(file string, encode func() ([]byte, error)) ([]byte, error) {
	var empty bytes.Buffer
	if err := sparsefile.Encode(context.Background(), &empty, strings.NewReader("")); err != nil {
		return nil, err
	}
	format, _, _ := bytes.Cut(empty.Bytes(), []byte("\n"))
	content, err := os.ReadFile(file)
	if err == nil && bytes.HasPrefix(content, append(format, '\n')) {
		return content, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if content, err = encode(); err != nil {
		return nil, err
	}
	return content, atomicfile.Write(file, content, 0o644)
}
