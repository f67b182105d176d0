// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"botbottle.dev/bottle-operator/hack/internal/imagetar"
)

// maxGuest bounds what the root file system of smolvm's guests may unpack to, in bytes.
const maxGuest = 512 << 20

// guest returns the root file system that smolvm boots, unpacked below the payload.
func (w *wheel) guest() ([]imagetar.File, error) {
	archives := w.names("agent-rootfs.tar*")
	if len(archives) != 1 {
		return nil, fmt.Errorf("it has the archives %v, want one agent-rootfs", archives)
	}
	var r io.Reader = bytes.NewReader(w.files[archives[0]])
	if strings.HasSuffix(archives[0], ".zst") {
		d, err := zstd.NewReader(r)
		if err != nil {
			return nil, err
		}
		defer d.Close()
		r = d
	}
	entries, err := unpackGuest(tar.NewReader(io.LimitReader(r, maxGuest)))
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", archives[0], err)
	}
	return entries, nil
}

func unpackGuest(r *tar.Reader) ([]imagetar.File, error) {
	const root = payload + "agent-rootfs"
	var entries []imagetar.File
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return nil, err
		}
		name := path.Clean(h.Name)
		if !filepath.IsLocal(name) {
			return nil, fmt.Errorf("%q is outside of the archive", h.Name)
		}
		e := imagetar.File{
			Name: path.Join(root, name), Kind: h.Typeflag, Mode: readable(h), Link: h.Linkname,
			ModTime: h.ModTime.Truncate(time.Second),
		}
		switch h.Typeflag {
		case tar.TypeReg:
			if e.Content, err = io.ReadAll(r); err != nil {
				return nil, err
			}
		case tar.TypeDir, tar.TypeSymlink:
		case tar.TypeLink:
			e.Link = path.Join(root, path.Clean(h.Linkname))
		default:
			return nil, fmt.Errorf("%q is neither a file nor a folder nor a link", h.Name)
		}
		entries = append(entries, e)
	}
}

// readable returns a mode with which each machine's VMM, which runs as a user of its
// own, can read the file.
func readable(h *tar.Header) int64 {
	mode := h.Mode & 0o7777
	if h.Typeflag == tar.TypeSymlink {
		return 0o777
	}
	if h.Typeflag == tar.TypeDir || mode&0o111 != 0 {
		mode |= 0o111
	}
	return mode | 0o444
}
