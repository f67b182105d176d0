// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// packer writes one archive.
type packer struct {
	tar   *tar.Writer
	warn  func(string)
	links map[inode]string // the names of files with several hard links
	// incomplete is set when something could not be read.
	incomplete bool
}

type inode struct{ device, number uint64 }

// Out writes an archive of the paths. The names in it begin with the last component of
// the path, or with "." for a path without one. A path that is a symbolic link is
// stored as one, unless it ends with a slash. What is no file, folder or link is left
// out, with a warning. What cannot be read is left out too, but Out then returns an
// error in the end.
func Out(paths []string, to io.Writer, warn func(string)) error {
	p := &packer{tar: tar.NewWriter(to), warn: warn, links: map[inode]string{}}
	for _, path := range paths {
		if err := p.addPath(path); err != nil {
			return err
		}
	}
	if err := p.tar.Close(); err != nil {
		return err
	}
	if p.incomplete {
		return errors.New("the archive is incomplete")
	}
	return nil
}

// addPath adds one path. Its error is one of the archive, as all errors in this file.
func (p *packer) addPath(path string) error {
	if path == "" {
		return errors.New("empty path")
	}
	folder, name := filepath.Dir(filepath.Clean(path)), filepath.Base(filepath.Clean(path))
	stored := name
	if name == "/" || name == "." || name == ".." || strings.HasSuffix(path, "/") {
		folder, name = path, "."
	}
	if stored == "/" || stored == ".." {
		stored = "."
	}
	at, err := openRoot(folder)
	if err != nil {
		p.skip(path, err)
		return nil
	}
	defer unix.Close(at)
	return p.add(at, name, stored, 0)
}

// skip reports what could not be read.
func (p *packer) skip(name string, err error) {
	p.incomplete = true
	p.warn(fmt.Sprintf("%s: %v", quote(name), err))
}

// add adds the entry name of a folder, and what is in it.
func (p *packer) add(at int, name, stored string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		p.skip(stored, err)
		return nil
	}
	switch kind(&st) {
	case unix.S_IFDIR:
		return p.addFolder(at, name, stored, depth)
	case unix.S_IFREG:
		return p.addFile(at, name, stored)
	case unix.S_IFLNK:
		return p.addLink(at, name, stored, &st)
	}
	p.warn(quote(stored) + ": left out, because it is neither a file nor a folder nor a link")
	return nil
}

func header(kind byte, name string, st *unix.Stat_t) *tar.Header {
	return &tar.Header{
		Typeflag: kind, Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()), Format: tar.FormatPAX,
	}
}

func (p *packer) addLink(at int, name, stored string, st *unix.Stat_t) error {
	target := make([]byte, unix.PathMax+1)
	n, err := unix.Readlinkat(at, name, target)
	if err != nil {
		p.skip(stored, err)
		return nil
	}
	h := header(tar.TypeSymlink, stored, st)
	h.Linkname = string(target[:n])
	return p.tar.WriteHeader(h)
}

// addFile adds a file with the size that it has when it is opened.
func (p *packer) addFile(at int, name, stored string) error {
	fd, err := retry(func() (int, error) {
		return unix.Openat(at, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		p.skip(stored, err)
		return nil
	}
	f := os.NewFile(uintptr(fd), stored)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || kind(&st) != unix.S_IFREG {
		p.skip(stored, errors.New("replaced while it was read"))
		return nil
	}
	if first, ok := p.linked(&st, stored); ok {
		h := header(tar.TypeLink, stored, &st)
		h.Linkname = first
		return p.tar.WriteHeader(h)
	}
	h := header(tar.TypeReg, stored, &st)
	h.Size = st.Size
	if err := p.tar.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(p.tar, io.LimitReader(f, st.Size))
	if n == st.Size {
		return err
	}
	if err == nil {
		err = errors.New("became shorter while it was read")
	}
	p.skip(stored, err)
	_, err = io.CopyN(p.tar, zeros{}, st.Size-n)
	return err
}

// linked returns the name under which a file with several hard links was stored first.
func (p *packer) linked(st *unix.Stat_t, stored string) (string, bool) {
	if st.Nlink < 2 {
		return "", false
	}
	id := inode{st.Dev, st.Ino}
	first, ok := p.links[id]
	if !ok && len(p.links) < maxRemembered {
		p.links[id] = stored
	}
	return first, ok
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

func (p *packer) addFolder(at int, name, stored string, depth int) error {
	if depth > maxDepth {
		p.skip(stored, errors.New("too many folders inside each other"))
		return nil
	}
	fd, err := openFolder(at, name)
	if err != nil {
		p.skip(stored, err)
		return nil
	}
	f := os.NewFile(uintptr(fd), stored)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		p.skip(stored, err)
		return nil
	}
	if isKernels(fd) {
		p.warn(quote(stored) + ": left out, because it shows the kernel's state and no files")
		return nil
	}
	if err := p.tar.WriteHeader(header(tar.TypeDir, stored+"/", &st)); err != nil {
		return err
	}
	return p.addContent(f, stored, depth)
}

func (p *packer) addContent(folder *os.File, stored string, depth int) error {
	for {
		names, err := folder.Readdirnames(512)
		for _, name := range names {
			if err := p.add(int(folder.Fd()), name, stored+"/"+name, depth+1); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			p.skip(stored, err)
			return nil
		}
	}
}

// isKernels reports whether a folder is in a file system such as /proc.
func isKernels(fd int) bool {
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) != nil {
		return false
	}
	switch fs.Type {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.DEVPTS_SUPER_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC:
		return true
	}
	return false
}
