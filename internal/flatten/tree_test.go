// SPDX-License-Identifier: Apache-2.0

package flatten

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// node is all that a guest sees of a file.
type node struct {
	Type     byte
	Mode     int64
	UID, GID int
	Time     time.Time
	Link     string // the target of a symlink
	Dev      string
	Names    string // the names of the same file, if it has several
	Content  string // the size and the hash
	Xattrs   map[string]string
}

// treeOf returns the files in a tar archive. Names of folders end with a slash.
func treeOf(t testing.TB, archive []byte) map[string]node {
	t.Helper()
	tree := map[string]node{}
	first := map[string]string{} // by name
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(h.Name, "./")
		if h.Typeflag == tar.TypeLink {
			first[name] = strings.TrimPrefix(h.Linkname, "./")
			continue
		}
		n := node{Type: h.Typeflag, Mode: h.Mode & 0o7777, UID: h.Uid, GID: h.Gid, Time: h.ModTime.UTC(), Xattrs: map[string]string{}}
		switch h.Typeflag {
		case tar.TypeSymlink:
			n.Link = h.Linkname
		case tar.TypeChar, tar.TypeBlock:
			n.Dev = fmt.Sprintf("%d:%d", h.Devmajor, h.Devminor)
		case tar.TypeReg:
			n.Content = contentOf(t, r)
		}
		for k, v := range h.PAXRecords {
			if attr, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
				n.Xattrs[attr] = v
			}
		}
		if _, ok := tree[name]; ok {
			t.Errorf("%q is in the archive twice", name)
		}
		tree[name] = n
		first[name] = name
	}
	for name, to := range first {
		n, ok := tree[to]
		if !ok {
			t.Errorf("%q is a link to %q, which is not in the archive before it", name, to)
		}
		tree[name] = n
	}
	nameGroups(tree, first)
	delete(tree, "")
	return tree
}

// nameGroups sets Names of files that share a key.
func nameGroups[K comparable](tree map[string]node, key map[string]K) {
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

func contentOf(t testing.TB, r io.Reader) string {
	t.Helper()
	sum := sha256.New()
	size, err := io.Copy(sum, r)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d bytes, %x", size, sum.Sum(nil)[:8])
}

// folderTree returns the files in a folder.
func folderTree(t testing.TB, root string) map[string]node {
	t.Helper()
	tree := map[string]node{}
	inodes := map[string]inode{}
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil || file == root {
			return err
		}
		name, _ := filepath.Rel(root, file)
		var st unix.Stat_t
		if err := unix.Lstat(file, &st); errors.Is(err, unix.ENOENT) {
			return nil
		} else if err != nil {
			return err
		}
		n := node{Mode: int64(st.Mode & 0o7777), UID: int(st.Uid), GID: int(st.Gid), Time: time.Unix(st.Mtim.Unix()).UTC(), Xattrs: xattrs(t, file)}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			n.Type = tar.TypeDir
			name += "/"
		case unix.S_IFREG:
			f, err := os.Open(file)
			if err != nil {
				return err
			}
			defer f.Close()
			n.Type, n.Content = tar.TypeReg, contentOf(t, f)
		case unix.S_IFLNK:
			n.Type = tar.TypeSymlink
			n.Link, _ = os.Readlink(file)
		case unix.S_IFIFO:
			n.Type = tar.TypeFifo
		case unix.S_IFCHR, unix.S_IFBLK:
			n.Type = tar.TypeChar
			if st.Mode&unix.S_IFMT == unix.S_IFBLK {
				n.Type = tar.TypeBlock
			}
			n.Dev = fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		tree[name], inodes[name] = n, inode{st.Dev, st.Ino}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	nameGroups(tree, inodes)
	return tree
}

func xattrs(t testing.TB, file string) map[string]string {
	t.Helper()
	all := map[string]string{}
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(file, list)
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(file, name, value)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = string(value[:n])
	}
	return all
}
