// SPDX-License-Identifier: Apache-2.0

package flatten

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// merge writes the tree that the layers 1 to n give. The archive goes to w
// outside of the workplace, because w may need files of the node.
func (p *workplace) merge(ctx context.Context, n int, w io.Writer, maxBytes int64) error {
	r, in := io.Pipe()
	var failed error
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, failed = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, bufferSize))
		_ = r.CloseWithError(failed) // never fails
	}()
	err := p.inside(func() error {
		if err := mountLayers(n); err != nil {
			return err
		}
		out := bufio.NewWriterSize(in, bufferSize)
		t := &treeWriter{ctx: ctx, tar: tar.NewWriter(&writer{w: out, left: maxBytes}), links: map[inode]string{}}
		err := t.writeDir("")
		if err == nil {
			err = t.tar.Close()
		}
		if err == nil {
			err = out.Flush()
		}
		return errors.Join(err, unix.Unmount(mergedDir, unix.MNT_DETACH))
	})
	_ = in.CloseWithError(err) // never fails
	<-done
	if failed != nil && err == nil || errors.Is(err, failed) {
		return failed
	}
	return nodeError(err)
}

// mountLayers mounts the merged tree. The kernel's defaults for the options of
// overlayfs differ, so it sets those that the tree depends on.
func mountLayers(n int) error {
	if err := errors.Join(makeDir(bottomDir), makeDir(mergedDir)); err != nil {
		return err
	}
	var lower []string
	for i := n; i > 0; i-- {
		lower = append(lower, layerDir(i))
	}
	lower = append(lower, bottomDir)
	options := "redirect_dir=nofollow,metacopy=off,index=off,xino=off,lowerdir=" + strings.Join(lower, ":")
	if len(lower) == 1 {
		return unix.Mount(bottomDir, mergedDir, "", unix.MS_BIND, "")
	}
	if err := unix.Mount("overlay", mergedDir, "overlay", unix.MS_RDONLY|mountFlags, options); err != nil {
		return fmt.Errorf("merge %d layers with overlayfs: %w", n, err)
	}
	return nil
}

type inode struct{ dev, ino uint64 }

// treeWriter writes the merged tree in the order of names.
type treeWriter struct {
	ctx   context.Context
	tar   *tar.Writer
	links map[inode]string // names of files that have several
}

// writeDir writes what is in the folder; name is "" or ends with a slash.
func (t *treeWriter) writeDir(name string) error {
	dir, err := os.Open(mergedDir + "/" + name)
	if err != nil {
		return err
	}
	children, err := dir.Readdirnames(-1)
	dir.Close()
	if err != nil {
		return err
	}
	slices.Sort(children)
	for _, child := range children {
		if err := t.write(name + child); err != nil {
			return err
		}
	}
	return nil
}

func (t *treeWriter) write(name string) error {
	if err := t.ctx.Err(); err != nil {
		return err
	}
	file := mergedDir + "/" + name
	var st unix.Stat_t
	if err := unix.Lstat(file, &st); errors.Is(err, unix.ENOENT) {
		return nil // overlayfs lists a whiteout where only one layer has the folder
	} else if err != nil {
		return err
	}
	h, err := header(name, file, &st)
	if err != nil {
		return err
	}
	if id := (inode{st.Dev, st.Ino}); h.Typeflag != tar.TypeDir && st.Nlink > 1 {
		if first, ok := t.links[id]; ok {
			h.Typeflag, h.Linkname, h.Size, h.PAXRecords = tar.TypeLink, first, 0, nil
		} else {
			t.links[id] = name
		}
	}
	if err := t.tar.WriteHeader(h); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return t.writeDir(h.Name)
	case tar.TypeReg:
		return t.writeContent(file)
	}
	return nil
}

func (t *treeWriter) writeContent(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		if err := t.ctx.Err(); err != nil {
			return err
		}
		if _, err := io.CopyN(t.tar, f, bufferSize); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// header describes a file without the names of its owners, which only the guest
// knows, and without its access time.
func header(name, file string, st *unix.Stat_t) (*tar.Header, error) {
	h := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()),
	}
	if st.Mtim.Nsec != 0 {
		h.Format = tar.FormatPAX // otherwise the writer rounds it
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	case unix.S_IFDIR:
		h.Typeflag = tar.TypeDir
		h.Name += "/"
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		to, err := os.Readlink(file)
		if err != nil {
			return nil, err
		}
		h.Linkname = to
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	}
	return h, setXattrs(h, file)
}

// hostXattrs are attributes that the node gives to files, or that only it
// should: those of its security modules, and those of overlayfs.
var hostXattrs = []string{"security.selinux", "security.ima", "security.evm", "security.apparmor", "security.SMACK64", "trusted."}

func setXattrs(h *tar.Header, file string) error {
	list, err := readXattr(func(b []byte) (int, error) { return unix.Llistxattr(file, b) })
	if err != nil || len(list) == 0 {
		return err
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		if slices.ContainsFunc(hostXattrs, func(p string) bool { return strings.HasPrefix(name, p) }) {
			continue
		}
		value, err := readXattr(func(b []byte) (int, error) { return unix.Lgetxattr(file, name, b) })
		if err != nil {
			return err
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+name] = string(value)
	}
	return nil
}

// readXattr calls get with a buffer that is large enough. The kernel allows at
// most 64 KiB.
func readXattr(get func([]byte) (int, error)) ([]byte, error) {
	n, err := get(nil)
	if errors.Is(err, unix.ENOTSUP) || n == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b := make([]byte, n)
	n, err = get(b)
	if err != nil {
		return nil, err
	}
	return b[:n], nil
}

// nodeError leaves out the paths of an error, which are the image's.
func nodeError(err error) error {
	var errno syscall.Errno
	var path *fs.PathError
	switch {
	case errors.Is(err, ErrTooLarge):
		return ErrTooLarge
	case errors.As(err, &path) && errors.As(err, &errno):
		return fmt.Errorf("merge layers: %w", errno)
	case errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong):
		return fmt.Errorf("the merged layers %w: a file cannot be described in a tar archive", ErrInvalid)
	}
	return err
}
