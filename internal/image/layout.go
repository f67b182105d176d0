// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"context"
	"encoding/json"
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

type section struct{ offset, size int64 }

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
		found[path.Clean(h.Name)] = section{at, h.Size}
	}
}

var errNotTar = errors.New("it is not a tar archive, or it is truncated: write it with docker save, podman save or skopeo copy")

func (e entries) reader(f *os.File, name string) (*io.SectionReader, error) {
	s, ok := e[name]
	if !ok {
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

// checkSaved fails if a file that manifest.json names is missing from the
// archive. smolvm would notice that only in the guest.
func (e entries) checkSaved(f *os.File) error {
	if _, ok := e[saveManifest]; !ok {
		return errors.New("it is not an image archive: it has neither manifest.json nor index.json: write it with docker save, podman save or skopeo copy")
	}
	r, err := e.reader(f, saveManifest)
	if err != nil {
		return err
	}
	var saved []struct {
		Config string
		Layers []string
	}
	if r.Size() > maxManifestBytes || json.NewDecoder(r).Decode(&saved) != nil {
		return errors.New("it is not an image archive: its manifest.json cannot be read")
	}
	if len(saved) != 1 {
		return fmt.Errorf("the archive holds %d images, want 1: save a single image", len(saved))
	}
	for _, name := range append(saved[0].Layers, saved[0].Config) {
		if _, err := e.reader(f, path.Clean(name)); err != nil {
			return err
		}
	}
	return nil
}
