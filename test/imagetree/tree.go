// SPDX-License-Identifier: Apache-2.0

package imagetree

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Tree has the files of a tree by name. Names of folders end with a slash.
type Tree map[string]Node

// Node is all that a guest sees of a file.
type Node struct {
	Type     byte // as in a tar archive
	Mode     int64
	UID, GID int
	Time     time.Time
	Link     string // the target of a symlink
	Dev      string
	Names    string // the names of the same file, if it has several
	Content  string // the size and the hash
	Xattrs   map[string]string
}

// Encode returns the tree as text. Names and attributes can have any bytes.
func (t Tree) Encode() (string, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(t)
	return base64.StdEncoding.EncodeToString(b.Bytes()), err
}

// Decode returns the tree that Encode gave the text of.
func Decode(text string) (Tree, error) {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return nil, err
	}
	var t Tree
	return t, gob.NewDecoder(bytes.NewReader(raw)).Decode(&t)
}

// OfTar returns the files in an archive. It fails if one is in it twice, or is a
// link to one that does not come before it.
func OfTar(archive io.Reader) (Tree, error) {
	tree := Tree{}
	first := map[string]string{} // by name
	r := tar.NewReader(archive)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(h.Name, "./")
		if _, ok := tree[name]; ok {
			return nil, fmt.Errorf("%q is in the archive twice", name)
		}
		if h.Typeflag == tar.TypeLink {
			to := strings.TrimPrefix(h.Linkname, "./")
			n, ok := tree[to]
			if !ok {
				return nil, fmt.Errorf("%q is a link to %q, which does not come before it", name, to)
			}
			tree[name], first[name] = n, to
			continue
		}
		if tree[name], err = nodeOf(h, r); err != nil {
			return nil, err
		}
		first[name] = name
	}
	nameGroups(tree, first)
	delete(tree, "")
	return tree, nil
}

func nodeOf(h *tar.Header, content io.Reader) (n Node, err error) {
	n = Node{Type: h.Typeflag, Mode: h.Mode & 0o7777, UID: h.Uid, GID: h.Gid, Time: h.ModTime.UTC(), Xattrs: map[string]string{}}
	switch h.Typeflag {
	case tar.TypeSymlink:
		n.Link = h.Linkname
	case tar.TypeChar, tar.TypeBlock:
		n.Dev = fmt.Sprintf("%d:%d", h.Devmajor, h.Devminor)
	case tar.TypeReg:
		n.Content, err = contentOf(content)
	}
	for k, v := range h.PAXRecords {
		if attr, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			n.Xattrs[attr] = v
		}
	}
	return n, err
}

// nameGroups sets Names of files that share a key.
func nameGroups[K comparable](tree Tree, key map[string]K) {
	groups := map[K][]string{}
	for name, k := range key {
		groups[k] = append(groups[k], name)
	}
	for _, group := range groups {
		if len(group) < 2 {
			continue
		}
		slices.Sort(group)
		names := fmt.Sprintf("%q", group)
		for _, name := range group {
			n := tree[name]
			n.Names = names
			tree[name] = n
		}
	}
}

func contentOf(r io.Reader) (string, error) {
	sum := sha256.New()
	size, err := io.Copy(sum, r)
	return fmt.Sprintf("%d bytes, %x", size, sum.Sum(nil)[:8]), err
}

// OfFolder returns the files in a folder.
func OfFolder(root string) (Tree, error) {
	tree := Tree{}
	inodes := map[string][2]uint64{}
	err := filepath.WalkDir(root, func(file string, _ fs.DirEntry, err error) error {
		// overlayfs lists a whiteout where only one layer has the folder.
		if file == root || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, file)
		var st unix.Stat_t
		if err := unix.Lstat(file, &st); errors.Is(err, unix.ENOENT) {
			return nil
		} else if err != nil {
			return err
		}
		n := Node{Mode: int64(st.Mode & 0o7777), UID: int(st.Uid), GID: int(st.Gid), Time: time.Unix(st.Mtim.Unix()).UTC()}
		if err := n.describe(file, &st); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		if n.Type == tar.TypeDir {
			name += "/"
		}
		tree[name], inodes[name] = n, [2]uint64{st.Dev, st.Ino}
		return nil
	})
	nameGroups(tree, inodes)
	return tree, err
}

func (n *Node) describe(file string, st *unix.Stat_t) (err error) {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		n.Type = tar.TypeDir
	case unix.S_IFREG:
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		n.Type = tar.TypeReg
		if n.Content, err = contentOf(f); err != nil {
			return err
		}
	case unix.S_IFLNK:
		n.Type = tar.TypeSymlink
		if n.Link, err = os.Readlink(file); err != nil {
			return err
		}
	case unix.S_IFIFO:
		n.Type = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		n.Type = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			n.Type = tar.TypeBlock
		}
		n.Dev = fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	n.Xattrs, err = xattrsOf(file)
	return err
}

func xattrsOf(file string) (map[string]string, error) {
	all := map[string]string{}
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(file, list)
	if errors.Is(err, unix.ENOTSUP) {
		return all, nil
	}
	if err != nil {
		return nil, err
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(file, name, value)
		if err != nil {
			return nil, err
		}
		all[name] = string(value[:n])
	}
	return all, nil
}

// LostBySmolvm returns the tree without what smolvm loses in the guest: extended
// attributes, and so the capabilities of programs and access lists. The mode of a
// file shows the mask of its access list as the group's rights.
func LostBySmolvm(tree Tree) Tree {
	tree = maps.Clone(tree)
	for name, n := range tree {
		n.Xattrs = map[string]string{}
		tree[name] = n
	}
	return tree
}
