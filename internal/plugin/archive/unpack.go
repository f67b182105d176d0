// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Limits bound what an archive may make.
type Limits struct {
	// Entries is how many files, folders and links there may be.
	Entries int
	// Bytes is how large all files may be together.
	Bytes int64
	// Depth is how many components a name may have.
	Depth int
}

// DefaultLimits are large enough for a source tree with all that belongs to it.
var DefaultLimits = Limits{Entries: 1_000_000, Bytes: 64 << 30, Depth: 128}

// maxName is how long a name, or the target of a link, may be in bytes.
const maxName = 4096

// ErrHostile means that an archive contains something that no honest archive contains.
var ErrHostile = errors.New("the archive is malformed or hostile")

// Result says what was unpacked.
type Result struct {
	Entries int
	Bytes   int64
	// LinksOutside are symbolic links that lead out of the target. They were made as they
	// are in the archive, and nothing was written through them.
	LinksOutside int
}

// unpacker unpacks one archive.
type unpacker struct {
	ctx     context.Context
	in      *tar.Reader
	target  string
	root    *os.Root // of the target if it is a folder; nil until the first entry says so
	file    bool     // the target is a file
	limits  Limits
	folders []folder // in the order in which they were made
	result  Result
	report  Report
}

// folder is what a folder gets after everything in it was made.
type folder struct {
	name    string
	mode    fs.FileMode
	modTime time.Time
}

// Unpack reads an archive whose names all begin with the same component and puts what
// that component names at target, which replaces the component: a file, or a folder that
// is merged with one that exists. The folder that target is in must exist. Files and
// links that exist are replaced; a folder is never replaced by something else.
func Unpack(ctx context.Context, r io.Reader, target string, limits Limits, report Report) (Result, error) {
	u := &unpacker{ctx: ctx, in: tar.NewReader(reader{ctx, r}), target: target, limits: limits, report: report}
	defer func() {
		if u.root != nil {
			_ = u.root.Close()
		}
	}()
	for {
		header, err := u.in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = u.add(header)
		}
		if err != nil {
			return u.result, errors.Join(err, u.finish())
		}
	}
	if err := u.finish(); err != nil {
		return u.result, err
	}
	// What follows the end of the archive is read, so that the guest can end.
	_, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20))
	return u.result, err
}

// add makes one entry.
func (u *unpacker) add(h *tar.Header) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if u.result.Entries++; u.result.Entries > u.limits.Entries {
		return fmt.Errorf("there are more than %d files", u.limits.Entries)
	}
	first, name, err := u.split(h.Name)
	if err != nil {
		return err
	}
	if name == "" {
		return u.addTarget(h)
	}
	if u.file {
		return fmt.Errorf("%w: %q is in %q, which is a file", ErrHostile, h.Name, first)
	}
	if err := u.openRoot(); err != nil {
		return err
	}
	if err := u.makeParents(path.Dir(name)); err != nil {
		return err
	}
	return u.addEntry(h, name)
}

// split checks a name of the archive and returns its first component and the rest.
func (u *unpacker) split(name string) (string, string, error) {
	clean := strings.TrimRight(name, "/")
	switch {
	case len(name) > maxName:
		return "", "", fmt.Errorf("%w: a name has %d bytes", ErrHostile, len(name))
	case strings.ContainsRune(clean, 0), !filepath.IsLocal(filepath.FromSlash(clean)), slices.Contains(strings.Split(clean, "/"), ".."):
		return "", "", fmt.Errorf("%w: the name %q leads out of the target", ErrHostile, name)
	case strings.Count(clean, "/") >= u.limits.Depth:
		return "", "", fmt.Errorf("%w: a name has more than %d components", ErrHostile, u.limits.Depth)
	}
	first, rest, _ := strings.Cut(clean, "/")
	if rest = path.Clean(rest); rest == "." {
		rest = ""
	}
	return first, strings.TrimPrefix(rest, "/"), nil
}

// addTarget makes the target itself.
func (u *unpacker) addTarget(h *tar.Header) error {
	if h.Typeflag == tar.TypeDir {
		if u.file {
			return fmt.Errorf("%w: %q is both a file and a folder", ErrHostile, h.Name)
		}
		if err := u.openRoot(); err != nil {
			return err
		}
		u.folders = append(u.folders, folder{".", h.FileInfo().Mode().Perm(), h.ModTime})
		return nil
	}
	if u.root != nil {
		return fmt.Errorf("%w: %q comes twice", ErrHostile, h.Name)
	}
	parent, base := filepath.Split(u.target)
	if parent == "" {
		parent = "."
	}
	root, err := os.OpenRoot(parent)
	if err != nil {
		return err
	}
	u.root, u.file = root, true
	if h.Typeflag == tar.TypeLink {
		return fmt.Errorf("%w: %q is a hard link to a file that is not in the archive", ErrHostile, h.Name)
	}
	return u.addEntry(h, base)
}

// openRoot makes the target a folder and opens it.
func (u *unpacker) openRoot() error {
	if u.root != nil {
		return nil
	}
	if err := os.Mkdir(u.target, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	root, err := os.OpenRoot(u.target)
	u.root = root
	return err
}

// makeParents makes the folders that the archive does not name.
func (u *unpacker) makeParents(name string) error {
	if name == "." {
		return nil
	}
	return u.root.MkdirAll(filepath.FromSlash(name), 0o777)
}

// addEntry makes what the header describes at name, which is in the root.
func (u *unpacker) addEntry(h *tar.Header, name string) error {
	local := filepath.FromSlash(name)
	switch h.Typeflag {
	case tar.TypeDir:
		return u.addFolder(h, local)
	case tar.TypeReg, tar.TypeGNUSparse:
		return u.addFile(h, local)
	case tar.TypeSymlink:
		return u.addSymlink(h, name)
	case tar.TypeLink:
		_, old, err := u.split(h.Linkname)
		if err != nil {
			return err
		}
		if old == "" || old == name {
			return fmt.Errorf("%w: %q is a hard link to %q", ErrHostile, h.Name, h.Linkname)
		}
		if err := u.makeRoom(local); err != nil {
			return err
		}
		return u.root.Link(filepath.FromSlash(old), local)
	}
	u.report(h.Name, "it is neither a file nor a folder nor a link")
	return nil
}

func (u *unpacker) addFolder(h *tar.Header, name string) error {
	info, err := u.root.Lstat(name)
	switch {
	case err == nil && info.IsDir():
	case err == nil || errors.Is(err, fs.ErrNotExist):
		if err := u.makeRoom(name); err != nil {
			return err
		}
		if err := u.root.Mkdir(name, 0o700); err != nil { // closed until it is complete
			return err
		}
	default:
		return err
	}
	u.folders = append(u.folders, folder{name, h.FileInfo().Mode().Perm(), h.ModTime})
	return nil
}

func (u *unpacker) addFile(h *tar.Header, name string) error {
	if h.Size > u.limits.Bytes-u.result.Bytes {
		return fmt.Errorf("the files are larger than %d bytes", u.limits.Bytes)
	}
	if err := u.makeRoom(name); err != nil {
		return err
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, u.in)
	u.result.Bytes += n
	if err == nil {
		err = f.Chmod(h.FileInfo().Mode().Perm())
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return u.root.Chtimes(name, h.ModTime, h.ModTime)
}

func (u *unpacker) addSymlink(h *tar.Header, name string) error {
	target := h.Linkname
	if target == "" || len(target) > maxName || strings.ContainsRune(target, 0) {
		return fmt.Errorf("%w: %q is a link to nothing", ErrHostile, h.Name)
	}
	local := filepath.FromSlash(name)
	if err := u.makeRoom(local); err != nil {
		return err
	}
	if err := u.root.Symlink(filepath.FromSlash(target), local); err != nil {
		return err
	}
	if path.IsAbs(target) || u.file && strings.Contains(target, "/") || !filepath.IsLocal(filepath.Join(filepath.Dir(local), filepath.FromSlash(target))) {
		u.result.LinksOutside++
	}
	return setLinkTime(u.root, local, h.ModTime)
}

// makeRoom removes a file or link of the name. A new file is then never written through
// a link, nor into a file that has another name as well.
func (u *unpacker) makeRoom(name string) error {
	info, err := u.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		return fmt.Errorf("%s: is a folder, and would be replaced by something else", filepath.Join(u.target, name))
	}
	return u.root.Remove(name)
}

// finish sets the modes and times of the folders, the deepest first.
func (u *unpacker) finish() error {
	var errs []error
	for _, f := range slices.Backward(u.folders) {
		// A later entry may have replaced the folder.
		if info, err := u.root.Lstat(f.name); err != nil || !info.IsDir() {
			continue
		}
		err := u.root.Chtimes(f.name, f.modTime, f.modTime)
		if err == nil {
			err = u.root.Chmod(f.name, f.mode)
		}
		if err != nil && len(errs) == 0 {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
