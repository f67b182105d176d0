// SPDX-License-Identifier: Apache-2.0

// Package imagetar writes the files of images as tar archives. The same files give the same
// bytes. It knows nothing of images' configs and manifests.
package imagetar

import (
	"archive/tar"
	"fmt"
	"io"
	"path"
	"time"
)

// File is a file, folder or link. It belongs to root.
type File struct {
	Name    string // the path inside the archive, without a trailing slash
	Kind    byte   // tar.TypeReg, TypeDir, TypeSymlink or TypeLink
	Mode    int64
	Link    string    // what a link leads to
	ModTime time.Time // the zero Time is 1970
	Content []byte
}

// Regular returns a regular file.
func Regular(name string, mode int64, content []byte) File {
	return File{Name: name, Kind: tar.TypeReg, Mode: mode, Content: content}
}

// Folder returns a folder.
func Folder(name string, mode int64) File { return File{Name: name, Kind: tar.TypeDir, Mode: mode} }

// Symlink returns a symbolic link.
func Symlink(name, target string) File {
	return File{Name: name, Kind: tar.TypeSymlink, Mode: 0o777, Link: target}
}

// Write writes an archive of the files in their order. Folders that are not among the files
// are added before their first file, with mode 0755.
func Write(w io.Writer, files []File) error {
	tw := tar.NewWriter(w)
	folders := map[string]bool{".": true}
	for _, f := range files {
		if err := writeFolders(tw, folders, path.Dir(f.Name)); err != nil {
			return err
		}
		if err := writeFile(tw, f); err != nil {
			return fmt.Errorf("write %s: %w", f.Name, err)
		}
		if f.Kind == tar.TypeDir {
			folders[f.Name] = true
		}
	}
	return tw.Close()
}

func writeFolders(tw *tar.Writer, have map[string]bool, folder string) error {
	if have[folder] {
		return nil
	}
	if err := writeFolders(tw, have, path.Dir(folder)); err != nil {
		return err
	}
	have[folder] = true
	return writeFile(tw, Folder(folder, 0o755))
}

func writeFile(tw *tar.Writer, f File) error {
	h := &tar.Header{
		Typeflag: f.Kind, Name: f.Name, Mode: f.Mode, Linkname: f.Link, Size: int64(len(f.Content)),
		ModTime: f.ModTime, Format: tar.FormatPAX,
	}
	if f.ModTime.IsZero() {
		h.ModTime = time.Unix(0, 0)
	}
	if f.Kind == tar.TypeDir {
		h.Name += "/"
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := tw.Write(f.Content)
	return err
}
