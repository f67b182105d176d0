// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"path"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// entry is a file, folder or link of an image. It belongs to root.
type entry struct {
	name    string // relative to the image's root, without a slash at the end
	kind    byte   // tar.TypeReg, TypeDir, TypeSymlink or TypeLink
	mode    int64
	link    string
	modTime time.Time // the zero Time is 1970
	content []byte
}

func regular(name string, mode int64, content []byte) entry {
	return entry{name: name, kind: tar.TypeReg, mode: mode, content: content}
}

// newLayer returns a layer of the entries in their order. Folders that have no
// entry of their own are added before their first file, with mode 0755.
func newLayer(entries []entry) (v1.Layer, error) {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	folders := map[string]bool{".": true}
	for _, e := range entries {
		if err := writeFolders(tw, folders, path.Dir(e.name)); err != nil {
			return nil, err
		}
		if err := writeEntry(tw, e); err != nil {
			return nil, fmt.Errorf("write %s: %w", e.name, err)
		}
		if e.kind == tar.TypeDir {
			folders[e.name] = true
		}
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithCompressedCaching,
		tarball.WithCompressionLevel(gzip.DefaultCompression), tarball.WithMediaType(types.OCILayer))
}

func writeFolders(tw *tar.Writer, have map[string]bool, folder string) error {
	if have[folder] {
		return nil
	}
	if err := writeFolders(tw, have, path.Dir(folder)); err != nil {
		return err
	}
	have[folder] = true
	return writeEntry(tw, entry{name: folder, kind: tar.TypeDir, mode: 0o755})
}

func writeEntry(tw *tar.Writer, e entry) error {
	h := &tar.Header{
		Typeflag: e.kind, Name: e.name, Mode: e.mode, Linkname: e.link, Size: int64(len(e.content)),
		ModTime: e.modTime, Format: tar.FormatPAX,
	}
	if e.modTime.IsZero() {
		h.ModTime = time.Unix(0, 0)
	}
	if e.kind == tar.TypeDir {
		h.Name += "/"
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := tw.Write(e.content)
	return err
}
