// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"botbottle.dev/bottle-operator/internal/host"
)

// file is a file in a bundle's container. A file with a link is a symbolic link.
type file struct {
	data []byte
	link string
}

// PutFile puts a file into the owner's current container and all later ones, as
// if it were in their image.
func (f *Bundles) PutFile(owner host.Owner, name string, data []byte) {
	f.locked(func() { f.files[owner.ID()+name] = file{data: slices.Clone(data)} })
}

// PutLink does the same as PutFile with a symbolic link.
func (f *Bundles) PutLink(owner host.Owner, name, target string) {
	f.locked(func() { f.files[owner.ID()+name] = file{link: target} })
}

// RemoveFile removes a file or link that PutFile or PutLink put.
func (f *Bundles) RemoveFile(owner host.Owner, name string) {
	f.locked(func() { delete(f.files, owner.ID()+name) })
}

// ReadFile implements host.Bundles.
func (f *Bundles) ReadFile(ctx context.Context, owner host.Owner, name string, limit int64) (out []byte, err error) {
	err = f.networks.call(ctx, "ReadFile "+owner.ID(), func() error {
		if !path.IsAbs(name) || path.Clean(name) != name || strings.ContainsRune(name, 0) {
			return fmt.Errorf("file %q: %w", name, host.ErrInvalid)
		}
		if _, err := f.find(owner); err != nil {
			return err
		}
		got, err := f.readFile(owner, name)
		if err != nil {
			return err
		}
		if int64(len(got)) > limit {
			return fmt.Errorf("file %q: %d bytes: %w", name, len(got), host.ErrInvalid)
		}
		out = slices.Clone(got)
		return nil
	})
	return zeroOnError(out, err)
}

func (f *Bundles) readFile(owner host.Owner, name string) ([]byte, error) {
	at := name
	for range 10 {
		got, ok := f.files[owner.ID()+at]
		switch {
		case !ok && f.isFolder(owner, at):
			return nil, fmt.Errorf("file %q is a folder: %w", name, host.ErrInvalid)
		case !ok:
			return nil, fmt.Errorf("file %q: %w", name, host.ErrNotFound)
		case got.link == "":
			return got.data, nil
		case path.IsAbs(got.link):
			at = path.Clean(got.link)
		default:
			at = path.Join(path.Dir(at), got.link)
		}
	}
	return nil, fmt.Errorf("file %q has too many links: %w", name, host.ErrInvalid)
}

func (f *Bundles) isFolder(owner host.Owner, name string) bool {
	for at := range f.files {
		if strings.HasPrefix(at, owner.ID()+strings.TrimSuffix(name, "/")+"/") {
			return true
		}
	}
	return name == "/"
}

// SetFolders sets what Folders returns. The default is ErrNotFound.
func (f *Bundles) SetFolders(folders func(owner host.Owner) (rules, secrets string, err error)) {
	f.locked(func() { f.folders = folders })
}

// Folders implements host.Bundles. Like docker's adapter, it also works while docker is
// down.
func (f *Bundles) Folders(ctx context.Context, owner host.Owner) (rules, secrets string, err error) {
	err = f.around("Folders "+owner.ID(), func() (err error) {
		if err := ctx.Err(); err != nil {
			return err
		}
		var folders func(host.Owner) (string, string, error)
		f.locked(func() { folders = f.folders })
		rules, secrets, err = folders(owner)
		return err
	})
	if err != nil {
		return "", "", err
	}
	return rules, secrets, nil
}
