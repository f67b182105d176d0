// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"botbottle.dev/bottle-operator/internal/egress"
)

const (
	layoutIndex  = "index.json"
	saveManifest = "manifest.json"
	// maxEntries bounds the number of files in an archive.
	maxEntries = 100000
	// maxShownName bounds, in bytes, a file's name in a message.
	maxShownName = 100
)

// layout is an OCI image layout: index.json and blobs/.
type layout struct {
	open func(name string) (io.ReadCloser, error)
}

var _ content = layout{}

// folderLayout returns the layout in an open folder. It does not follow links.
func folderLayout(dir *os.File) layout {
	return layout{open: func(name string) (io.ReadCloser, error) {
		f, info, err := openBelow(int(dir.Fd()), name)
		if err != nil {
			return nil, fmt.Errorf("%s of the layout: %w", name, err)
		}
		if !info.Mode().IsRegular() {
			f.Close()
			return nil, fmt.Errorf("%s of the layout is not a regular file", name)
		}
		return f, nil
	}}
}

func (l layout) read(name string, limit int64) ([]byte, error) {
	r, err := l.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("%s has more than %s", name, bytesText(limit))
	}
	return raw, err
}

func (l layout) manifest(_ context.Context, digest v1.Hash) ([]byte, error) {
	return l.read(blobPath(digest), maxManifestBytes)
}

func (l layout) blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	r, err := l.open(blobPath(d.Digest))
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{contextReader{ctx, r}, r}, nil
}

func blobPath(digest v1.Hash) string { return "blobs/" + digest.Algorithm + "/" + digest.Hex }

// entries maps the name of each file in an archive to its position.
type entries map[string]section

// section is the position of a file, or the name of the file that a link leads
// to. docker save writes links for layers that several images share.
type section struct {
	offset, size int64
	link         string
}

// maxLinks bounds the links from one file of an archive to another.
const maxLinks = 8

// scanArchive reads only the headers of a tar archive.
func scanArchive(f *os.File) (entries, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	found := entries{}
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, errNotTar
		}
		if len(found) >= maxEntries {
			return nil, fmt.Errorf("it is not an image archive: it has more than %d files", maxEntries)
		}
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		name := path.Clean(h.Name)
		found[name] = section{offset: at, size: h.Size, link: linkOf(name, h)}
	}
}

var errNotTar = errors.New("it is not a tar archive, or it is truncated: write it with docker save, podman save or skopeo copy")

// linkOf returns the name of the file that the entry is a link to, or "".
func linkOf(name string, h *tar.Header) string {
	switch h.Typeflag {
	case tar.TypeSymlink:
		return path.Join(path.Dir(name), h.Linkname)
	case tar.TypeLink:
		return path.Clean(h.Linkname)
	}
	return ""
}

func (e entries) reader(f *os.File, name string) (*io.SectionReader, error) {
	s, ok := e[name]
	for n := 0; ok && s.link != "" && n < maxLinks; n++ {
		s, ok = e[s.link]
	}
	if !ok || s.link != "" {
		return nil, fmt.Errorf("it is not a complete image archive: %q is missing", egress.Printable(name, maxShownName))
	}
	return io.NewSectionReader(f, s.offset, s.size), nil
}

// layout returns the archive's OCI layout. It returns false if there is none,
// or if there is a docker-save manifest too.
func (e entries) layout(f *os.File) (layout, bool) {
	_, saved := e[saveManifest]
	_, index := e[layoutIndex]
	return layout{open: func(name string) (io.ReadCloser, error) {
		r, err := e.reader(f, name)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(r), nil
	}}, index && !saved
}
