// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/moby/moby/client"

	"botbottle.dev/bottle-operator/internal/host"
)

// ReadFile implements host.Bundles. Docker resolves paths inside the container's
// root. ReadFile checks again what docker returns, because the container may
// change the file meanwhile.
func (e *Engine) ReadFile(ctx context.Context, owner host.Owner, name string, limit int64) ([]byte, error) {
	what := fmt.Sprintf("read file %q of docker container %q", name, owner.ID())
	if !path.IsAbs(name) || path.Clean(name) != name || strings.ContainsRune(name, 0) {
		return nil, fmt.Errorf("%s: want an absolute path without . and ..: %w", what, host.ErrInvalid)
	}
	c, err := e.findBundle(ctx, owner)
	if err != nil {
		return nil, err
	}
	var data []byte
	err = e.write(ctx, what, func(ctx context.Context) error {
		var link string
		if data, link, err = e.copyFile(ctx, c.ID, name, limit); err == nil && link != "" {
			data, link, err = e.copyFile(ctx, c.ID, link, limit)
		}
		if err == nil && link != "" {
			err = fmt.Errorf("it is a link that changed while it was read: %w", host.ErrInvalid)
		}
		return withFileKind(err)
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// copyFile returns a file's content. For a symbolic link it returns the link's
// final target inside the container's root. It does not request the file's type
// first, because docker's answer to that request has no room for an error text.
func (e *Engine) copyFile(ctx context.Context, id, name string, limit int64) (data []byte, link string, err error) {
	out, err := e.calls().CopyFromContainer(ctx, id, client.CopyFromContainerOptions{SourcePath: name})
	if err != nil {
		return nil, "", err
	}
	defer out.Content.Close()
	if out.Stat.Mode.Type() == fs.ModeSymlink {
		return nil, path.Join("/", out.Stat.LinkTarget), nil
	}
	if err := checkFile(out.Stat.Mode.IsRegular(), out.Stat.Size, limit); err != nil {
		return nil, "", err
	}
	data, err = firstFile(out.Content, limit)
	return data, "", err
}

// withFileKind adds the port's kind to errors that docker distinguishes only by
// their text.
func withFileKind(err error) error {
	switch {
	case err == nil:
		return nil
	case strings.Contains(err.Error(), "not a directory"):
		return fmt.Errorf("%w: %w", host.ErrNotFound, err)
	case strings.Contains(err.Error(), "too many links"):
		return fmt.Errorf("%w: %w", host.ErrInvalid, err)
	}
	return err
}

// firstFile returns the content of an archive's first entry. It returns
// ErrInvalid if that is not a regular file or is larger than limit.
func firstFile(archive io.Reader, limit int64) ([]byte, error) {
	r := tar.NewReader(archive)
	h, err := r.Next()
	if err != nil {
		return nil, fmt.Errorf("docker's archive: %w", err)
	}
	if err := checkFile(h.Typeflag == tar.TypeReg, h.Size, limit); err != nil {
		return nil, err
	}
	data := make([]byte, h.Size)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, fmt.Errorf("docker's archive: %w", err)
	}
	return data, nil
}

func checkFile(regular bool, size, limit int64) error {
	switch {
	case !regular:
		return fmt.Errorf("it is not a regular file: %w", host.ErrInvalid)
	case size > limit:
		return fmt.Errorf("it has %d bytes, more than the limit of %d: %w", size, limit, host.ErrInvalid)
	}
	return nil
}

// Folders implements host.Bundles. Both folders are mounted into the container when it is
// created, so they do not depend on dockerd.
func (e *Engine) Folders(ctx context.Context, owner host.Owner) (rules, secrets string, err error) {
	if e.folders == nil {
		return "", "", fmt.Errorf("folders of bundle %q: %w", owner.ID(), host.ErrUnsupported)
	}
	rules, secrets, err = e.folders(ctx, owner)
	if err != nil {
		return "", "", fmt.Errorf("folders of bundle %q: %w", owner.ID(), err)
	}
	return rules, secrets, nil
}
