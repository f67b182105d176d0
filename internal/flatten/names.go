// SPDX-License-Identifier: Apache-2.0

package flatten

import (
	"archive/tar"
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	cfs "github.com/containerd/continuity/fs"
	"golang.org/x/sys/unix"
)

// names are the folders that a layer's entries name.
type names struct {
	root    string
	lower   int             // number of the layers below
	listed  map[string]bool // have an entry of their own
	parents map[string]bool // have an entry below them
}

// add returns how many parents were not known yet.
func (n *names) add(h *tar.Header) (added int) {
	name := filepath.Clean("/" + h.Name)
	if h.Typeflag == tar.TypeDir {
		n.listed[name] = true
	}
	for dir := path.Dir(name); dir != "/" && !n.parents[dir]; dir = path.Dir(dir) {
		n.parents[dir] = true
		added++
	}
	return added
}

const (
	// maxDepth bounds how many folders are above a file.
	maxDepth = 512
	// maxLookups bounds the work to make the folders above one file: each looks for
	// its attributes in all layers below, with a lookup for each folder above it.
	maxLookups = 1 << 20
	// maxPath is the longest path that Linux takes, in bytes.
	maxPath = 4096
)

var errDepth = errors.New("a file is in too many folders, or its name is too long")

// missing returns how many folders are made for the entry because they have no
// entry of their own.
func (n *names) missing(h *tar.Header) (folders int, err error) {
	name := filepath.Clean("/" + h.Name)
	if len(name) > maxPath || strings.Count(name, "/") > maxDepth {
		return 0, errDepth
	}
	dir, err := cfs.RootPath(n.root, path.Dir(name))
	if err != nil {
		return 0, err
	}
	depth := strings.Count(dir, "/")
	if depth > maxDepth { // links can lead deeper than the name
		return 0, errDepth
	}
	for ; len(dir) > len(n.root); dir = path.Dir(dir) {
		if _, err := os.Lstat(dir); err == nil {
			break
		}
		folders++
	}
	if folders*depth*n.lower > maxLookups {
		return 0, errDepth
	}
	return folders, nil
}

// restoreTimes sets the times of folders that have no entry of their own, and
// therefore have the time at which they were unpacked. They get the time that
// they have in the layers below, or else the epoch.
func (n *names) restoreTimes(ctx context.Context, below []string) error {
	listed, known := map[string]bool{}, map[string]string{"/": n.root}
	for name := range n.listed {
		if err := ctx.Err(); err != nil {
			return err
		}
		resolved, err := n.resolve(name, known)
		if err != nil {
			return err
		}
		listed[resolved] = true
	}
	for name := range n.parents {
		resolved, err := n.resolve(name, known)
		if err != nil {
			return err
		}
		// The name may lead through links to a folder that is not a parent by
		// its name.
		for ; len(resolved) > len(n.root) && !listed[resolved]; resolved = path.Dir(resolved) {
			if err := ctx.Err(); err != nil {
				return err
			}
			listed[resolved] = true
			if err := restoreTime(n.root, resolved, below); err != nil {
				return err
			}
		}
	}
	return nil
}

// resolve is like continuity's RootPath, which takes a time that is quadratic in the
// depth, and therefore remembers the folders that it has resolved.
func (n *names) resolve(name string, known map[string]string) (string, error) {
	if resolved, ok := known[name]; ok {
		return resolved, nil
	}
	dir, err := n.resolve(path.Dir(name), known)
	if err != nil {
		return "", err
	}
	resolved := dir + "/" + path.Base(name)
	if info, err := os.Lstat(resolved); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		if resolved, err = cfs.RootPath(n.root, name); err != nil {
			return "", err
		}
	}
	known[name] = resolved
	return resolved, nil
}

func restoreTime(root, dir string, below []string) error {
	when := time.Unix(0, 0)
	for _, lower := range below {
		info, err := os.Lstat(lower + dir[len(root):])
		if err == nil {
			if info.IsDir() {
				when = info.ModTime()
			}
			break
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return err
		}
	}
	err := os.Chtimes(dir, when, when)
	if errors.Is(err, fs.ErrNotExist) { // a later entry has replaced it
		return nil
	}
	return err
}
