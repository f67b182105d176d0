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

// maxTrailer bounds what is read after the end of the archive, where tar pads it.
const maxTrailer = 1 << 20

// unpacker reads one archive.
type unpacker struct {
	root int
	// rename replaces the first component of all names; empty keeps it.
	rename  string
	folders []folder // whose modes and times are set last
	buffer  []byte
}

type folder struct {
	parts []string
	mode  uint32
	time  time.Time
}

// In makes the files of an archive. If dest is a folder, or ends with a slash, they are
// made in it. Otherwise dest itself is what the archive has: the first component of all
// names becomes the last one of dest. In refuses an archive with absolute names, names
// with "..", names that lead through a symbolic link, and anything but files, folders
// and links. What came before such a name has been made.
func In(dest string, from io.Reader) error {
	u := &unpacker{buffer: make([]byte, 256<<10)}
	if err := u.open(dest); err != nil {
		return err
	}
	defer unix.Close(u.root)
	err := u.extract(tar.NewReader(from))
	for i := len(u.folders) - 1; i >= 0; i-- {
		if ferr := u.finishFolder(u.folders[i]); err == nil {
			err = ferr
		}
	}
	if err != nil {
		return err
	}
	_, err = io.CopyN(io.Discard, from, maxTrailer)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		err = errors.New("something follows the archive")
	}
	return err
}

// open opens the folder to work in, which it makes if necessary.
func (u *unpacker) open(dest string) error {
	if dest == "" {
		return errors.New("empty path")
	}
	if !strings.HasSuffix(dest, "/") && !folderExists(dest) {
		clean := filepath.Clean(dest)
		dest, u.rename = filepath.Dir(clean), filepath.Base(clean)
	}
	if err := os.MkdirAll(dest, 0o755); err != nil {
		return err
	}
	var err error
	u.root, err = openRoot(dest)
	return err
}

func (u *unpacker) extract(archive *tar.Reader) error {
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the archive cannot be read: %w", err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		parts, err := u.split(h.Name)
		if err == nil && len(parts) > 0 {
			err = u.make(parts, h, archive)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", quote(h.Name), err)
		}
	}
}

// split returns the components of a name. There are none for the folder itself.
func (u *unpacker) split(name string) ([]string, error) {
	if strings.HasPrefix(name, "/") || strings.ContainsRune(name, 0) || name == "" {
		return nil, errors.New("refused: not a relative name")
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "", ".":
		case "..":
			return nil, errors.New(`refused: a name with ".."`)
		default:
			parts = append(parts, part)
		}
	}
	if len(parts) > maxDepth {
		return nil, errors.New("refused: too many folders inside each other")
	}
	if len(parts) > 0 && u.rename != "" {
		parts[0] = u.rename
	}
	return parts, nil
}

// parent opens the folder that has, or gets, the last component. It makes the folders
// above it if make is set.
func (u *unpacker) parent(parts []string) (int, error) {
	at, err := unix.Dup(u.root)
	if err != nil {
		return -1, err
	}
	for _, part := range parts[:len(parts)-1] {
		next, err := openFolder(at, part)
		if errors.Is(err, unix.ENOENT) {
			if err := unix.Mkdirat(at, part, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
				unix.Close(at)
				return -1, err
			}
			next, err = openFolder(at, part)
		}
		unix.Close(at)
		if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
			return -1, fmt.Errorf("refused: %s is a link or a file", quote(part))
		}
		if err != nil {
			return -1, err
		}
		at = next
	}
	return at, nil
}

// make makes what one header describes.
func (u *unpacker) make(parts []string, h *tar.Header, content io.Reader) error {
	at, err := u.parent(parts)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	name := parts[len(parts)-1]
	switch h.Typeflag {
	case tar.TypeDir:
		return u.makeFolder(at, parts, h)
	case tar.TypeReg, tar.TypeRegA, tar.TypeGNUSparse: //nolint:staticcheck // TypeRegA is in old archives
		return u.makeFile(at, name, h, content)
	case tar.TypeSymlink:
		return makeSymlink(at, name, h)
	case tar.TypeLink:
		return u.makeHardLink(at, name, h.Linkname)
	}
	return errors.New("refused: neither a file nor a folder nor a link")
}

func (u *unpacker) makeFolder(at int, parts []string, h *tar.Header) error {
	name := parts[len(parts)-1]
	if err := unix.Mkdirat(at, name, 0o700); err != nil {
		var st unix.Stat_t
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
		if err := unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if kind(&st) != unix.S_IFDIR {
			return errors.New("refused: a folder in the place of something else")
		}
	}
	f := folder{parts, uint32(h.Mode) & 0o7777, h.ModTime}
	if len(u.folders) < maxRemembered {
		u.folders = append(u.folders, f)
		return nil
	}
	return u.finishFolder(f)
}

// finishFolder sets the mode and the time of a folder. That comes last, because making
// entries changes the time, and the mode may forbid it.
func (u *unpacker) finishFolder(f folder) error {
	at, err := u.parent(f.parts)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	fd, err := openFolder(at, f.parts[len(f.parts)-1])
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fchmod(fd, f.mode); err != nil {
		return err
	}
	if f.time.IsZero() {
		return nil
	}
	spec := timespec(f.time)
	return unix.UtimesNanoAt(at, f.parts[len(f.parts)-1], []unix.Timespec{spec, spec}, unix.AT_SYMLINK_NOFOLLOW)
}

// remove removes what is in the place of a new file or link, unless it is a folder.
func remove(at int, name string) error {
	if err := unix.Unlinkat(at, name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) {
			return errors.New("refused: a folder is in its place")
		}
		return err
	}
	return nil
}

func (u *unpacker) makeFile(at int, name string, h *tar.Header, content io.Reader) error {
	if err := remove(at, name); err != nil {
		return err
	}
	fd, err := retry(func() (int, error) {
		return unix.Openat(at, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	})
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if _, err := io.CopyBuffer(struct{ io.Writer }{f}, content, u.buffer); err != nil {
		return err
	}
	// The owner is not kept, so the bits that lend its rights must not be kept.
	if err := unix.Fchmod(fd, uint32(h.Mode)&0o1777); err != nil {
		return err
	}
	if err := setTime(at, name, h.ModTime); err != nil {
		return err
	}
	return f.Close()
}

func makeSymlink(at int, name string, h *tar.Header) error {
	if err := remove(at, name); err != nil {
		return err
	}
	if err := unix.Symlinkat(h.Linkname, at, name); err != nil {
		return err
	}
	return setTime(at, name, h.ModTime)
}

// makeHardLink links to a file that is in the folder already.
func (u *unpacker) makeHardLink(at int, name, target string) error {
	parts, err := u.split(target)
	if err != nil {
		return fmt.Errorf("link to %s: %w", quote(target), err)
	}
	if len(parts) == 0 {
		return errors.New("refused: a hard link to a folder")
	}
	from, err := u.parent(parts)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	var st, own unix.Stat_t
	if err := unix.Fstatat(from, parts[len(parts)-1], &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("link to %s: %w", quote(target), err)
	}
	if kind(&st) != unix.S_IFREG {
		return errors.New("refused: a hard link to something that is not a file")
	}
	if unix.Fstatat(at, name, &own, unix.AT_SYMLINK_NOFOLLOW) == nil && own.Dev == st.Dev && own.Ino == st.Ino {
		return nil // it is that file already
	}
	if err := remove(at, name); err != nil {
		return err
	}
	return unix.Linkat(from, parts[len(parts)-1], at, name, 0)
}
