// SPDX-License-Identifier: Apache-2.0

package nodeinstall

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	// maxEntries bounds the files of a version. smolvm 1.32.2 has about 900.
	maxEntries = 50_000
	// maxData bounds the bytes of a version, without the holes of sparse files.
	maxData = 4 << 30
	// blockSize is the size of the blocks in which files are read. Blocks of zeros become
	// holes.
	blockSize = 64 << 10
)

var zeros = make([]byte, blockSize)

// entry is a file, folder or symbolic link of a version.
type entry struct {
	path string
	// mode has the type, and the permissions that the copy has.
	mode fs.FileMode
	// content is the digest of a file's content, or a link's target.
	content string
	// data is a file's size without holes.
	data int64
}

// tree is the content of a version, in lexical order.
type tree []entry

// digest identifies the tree.
func (t tree) digest() string {
	h := sha256.New()
	for _, e := range t {
		fmt.Fprintf(h, "%q %o %q\n", e.path, e.mode, e.content)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (t tree) data() (sum int64) {
	for _, e := range t {
		sum += e.data
	}
	return sum
}

// source is a folder with the files of a version.
type source struct {
	root *os.Root
	// names are what belongs to the version.
	names []string
	// ignored are patterns of paths that do not belong to it.
	ignored []string
}

func openSource(dir string, names []string) (source, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return source{}, fmt.Errorf("open the files to install: %w", err)
	}
	s := source{root: root, names: slices.Clone(names)}
	if len(names) == 0 {
		s.names, err = namesIn(root)
	}
	for _, name := range names {
		if !validFolder(name) {
			err = fmt.Errorf("file %q: want a name in %s", name, dir)
		}
	}
	if err == nil && len(s.names) == 0 {
		err = fmt.Errorf("%s is empty", dir)
	}
	if err != nil {
		root.Close()
		return source{}, err
	}
	slices.Sort(s.names)
	s.names = slices.Compact(s.names)
	return s, nil
}

// namesIn returns the names in a folder.
func namesIn(root *os.Root) ([]string, error) {
	f, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

func (s source) read(ctx context.Context) (tree, error) { return s.list(ctx, digestContent) }

func (s source) list(ctx context.Context, content contentReader) (tree, error) {
	t, err := s.readTree(ctx, content)
	for i := range t { // what the copy gets
		t[i].mode = normal(t[i].mode)
	}
	return t, err
}

// normal returns the mode of a copy: nobody but root can write to it, and everybody can
// read it, because VMMs run as users of their own.
func normal(mode fs.FileMode) fs.FileMode {
	switch {
	case mode.Type() == fs.ModeSymlink:
		return fs.ModeSymlink
	case mode.IsDir() || mode&0o111 != 0:
		return mode.Type() | 0o755
	}
	return mode.Type() | 0o644
}

// contentReader returns what identifies the content of a regular file, and the file's size
// without holes.
type contentReader func(ctx context.Context, root *os.Root, path string, info fs.FileInfo) (id string, data int64, err error)

// readTree reads what belongs to the version. It follows no link.
func (s source) readTree(ctx context.Context, content contentReader) (t tree, err error) {
	var data int64
	var visit func(path string) error
	visit = func(path string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if slices.ContainsFunc(s.ignored, func(pattern string) bool { ok, _ := filepath.Match(pattern, path); return ok }) {
			return nil
		}
		e, err := readEntry(ctx, s.root, path, content)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		t, data = append(t, e), data+e.data
		if len(t) > maxEntries || data > maxData {
			return fmt.Errorf("more than %d files or %d bytes", maxEntries, int64(maxData))
		}
		if !e.mode.IsDir() {
			return nil
		}
		folder, err := s.root.Open(path)
		if err != nil {
			return err
		}
		children, err := folder.Readdirnames(maxEntries + 1)
		folder.Close()
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		slices.Sort(children)
		for _, child := range children {
			if err := visit(path + "/" + child); err != nil {
				return err
			}
		}
		return nil
	}
	for _, name := range s.names {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func readEntry(ctx context.Context, root *os.Root, path string, content contentReader) (entry, error) {
	info, err := root.Lstat(path)
	if err != nil {
		return entry{}, err
	}
	e := entry{path: path, mode: info.Mode()}
	switch info.Mode().Type() {
	case fs.ModeDir:
	case fs.ModeSymlink:
		e.mode = fs.ModeSymlink
		e.content, err = root.Readlink(path)
	case 0:
		e.content, e.data, err = content(ctx, root, path, info)
	default:
		err = fmt.Errorf("it is a %s: want only files, folders and symbolic links", info.Mode().Type())
	}
	return e, err
}

// digestContent is the contentReader for digests.
func digestContent(ctx context.Context, root *os.Root, path string, _ fs.FileInfo) (digest string, data int64, err error) {
	f, err := openFile(root, path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	return readContent(ctx, f)
}

// readContent returns the digest of a file's content, and its size without holes. It
// does not read the holes.
func readContent(ctx context.Context, f *os.File) (digest string, data int64, err error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return "", 0, err
	}
	h := sha256.New()
	_ = binary.Write(h, binary.BigEndian, size)
	block := make([]byte, blockSize)
	for at := int64(0); at < size; {
		if err := ctx.Err(); err != nil {
			return "", 0, err
		}
		next, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // nothing but a hole follows
			break
		}
		if err == nil { // otherwise the file system knows no holes
			at = max(at, next-next%blockSize)
		}
		n, err := f.ReadAt(block, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return "", 0, err
		}
		if n == 0 {
			return "", 0, errors.New("it became shorter while it was read")
		}
		if !bytes.Equal(block[:n], zeros[:n]) {
			_ = binary.Write(h, binary.BigEndian, at)
			h.Write(block[:n])
			if data += int64(n); data > maxData {
				return "", 0, fmt.Errorf("more than %d bytes", int64(maxData))
			}
		}
		at += int64(n)
	}
	return hex.EncodeToString(h.Sum(nil)), data, nil
}
