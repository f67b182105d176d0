// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

const whiteout = ".wh."

// layer applies one layer on top of the layers below it.
type layer struct {
	root    *os.Root
	written map[string]bool // paths that this layer wrote
	dirs    []*tar.Header   // whose times are set last, because files in them change the times
}

func (ix *index) applyLayer(root *os.Root, name string) error {
	r, err := ix.open(name)
	if err != nil {
		return err
	}
	plain, _, err := decompress(r)
	if err != nil {
		return err
	}
	l := &layer{root: root, written: map[string]bool{}}
	for t := tar.NewReader(plain); ; {
		h, err := t.Next()
		if err == io.EOF {
			return l.setDirTimes()
		}
		if err != nil {
			return err
		}
		if err := l.apply(h, t); err != nil {
			return err
		}
	}
}

func (l *layer) apply(h *tar.Header, content io.Reader) error {
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if name == "" {
		return nil
	}
	dir, base := path.Split(name)
	dir = path.Clean(dir)
	if base == whiteout+whiteout+".opq" {
		return l.clear(dir)
	}
	if hidden, ok := strings.CutPrefix(base, whiteout); ok {
		return l.root.RemoveAll(path.Join(dir, hidden))
	}
	if dir != "." {
		if err := l.root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for p := name; p != "."; p = path.Dir(p) {
		l.written[p] = true
	}
	return l.write(name, h, content)
}

// clear removes from a folder what lower layers put there.
func (l *layer) clear(dir string) error {
	d, err := l.root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		p := path.Join(dir, n)
		if !l.written[p] {
			if err := l.root.RemoveAll(p); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *layer) write(name string, h *tar.Header, content io.Reader) error {
	old, err := l.root.Lstat(name)
	exists := err == nil
	if h.Typeflag == tar.TypeDir {
		if exists && !old.IsDir() {
			if err := l.root.Remove(name); err != nil {
				return err
			}
			exists = false
		}
		if !exists {
			if err := l.root.Mkdir(name, 0o755); err != nil {
				return err
			}
		}
		l.dirs = append(l.dirs, h)
		return l.setOwnerAndMode(name, h)
	}
	if exists {
		if err := l.root.RemoveAll(name); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeReg:
		err = l.writeFile(name, content)
	case tar.TypeSymlink:
		if err := errors.Join(l.root.Symlink(h.Linkname, name), l.root.Lchown(name, h.Uid, h.Gid)); err != nil {
			return err
		}
		return l.setTime(name, h)
	case tar.TypeLink:
		return l.root.Link(strings.TrimPrefix(path.Clean("/"+h.Linkname), "/"), name)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		err = l.makeNode(name, h)
	default:
		return nil
	}
	if err != nil {
		return err
	}
	if err := l.setOwnerAndMode(name, h); err != nil {
		return err
	}
	return l.setTime(name, h)
}

// inDir calls f with the folder that name is in.
func (l *layer) inDir(name string, f func(dir int, base string) error) error {
	dir, err := l.root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	return f(int(dir.Fd()), path.Base(name))
}

func (l *layer) makeNode(name string, h *tar.Header) error {
	kinds := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}
	dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	return l.inDir(name, func(dir int, base string) error { return unix.Mknodat(dir, base, kinds[h.Typeflag]|0o600, int(dev)) })
}

func (l *layer) setTime(name string, h *tar.Header) error {
	when := unix.NsecToTimespec(h.ModTime.UnixNano())
	return l.inDir(name, func(dir int, base string) error {
		return unix.UtimesNanoAt(dir, base, []unix.Timespec{when, when}, unix.AT_SYMLINK_NOFOLLOW)
	})
}

func (l *layer) setDirTimes() error {
	for _, h := range l.dirs {
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if info, err := l.root.Lstat(name); err != nil || !info.IsDir() {
			continue // a later entry replaced it
		}
		if err := l.setTime(name, h); err != nil {
			return err
		}
	}
	return nil
}

func (l *layer) writeFile(name string, content io.Reader) error {
	f, err := l.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, content); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func (l *layer) setOwnerAndMode(name string, h *tar.Header) error {
	if err := l.root.Lchown(name, h.Uid, h.Gid); err != nil {
		return err
	}
	const bits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	return l.root.Chmod(name, h.FileInfo().Mode()&bits)
}
