// SPDX-License-Identifier: Apache-2.0

// Package archive packs local files into a tar stream, and unpacks a tar stream that a
// guest wrote. It keeps contents, modes, times, symbolic and hard links, but no owners,
// no setuid, setgid and sticky bits, and no devices, FIFOs or sockets.
//
// A stream from a guest is untrusted: Unpack writes nothing outside its target, and
// its limits bound what it writes.
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
)

// Report is told about files that are left out, with the reason.
type Report func(name, why string)

// packer packs one tree.
type packer struct {
	ctx    context.Context
	out    *tar.Writer
	root   *os.Root
	top    string            // the first component of all names; "" for none
	links  map[fileID]string // name in the archive of files with several names
	report Report
}

// Pack writes the file or folder at source. Its names in the archive begin with top
// instead of the last component of source. If top is "", what is in the folder has no
// first component in common. A symbolic link at source itself is followed.
func Pack(ctx context.Context, w io.Writer, source, top string, report Report) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	folder, start := source, "."
	if !info.IsDir() {
		if top == "" {
			return &fs.PathError{Op: "read", Path: source, Err: errors.New("not a folder")}
		}
		real, err := filepath.EvalSymlinks(source)
		if err != nil {
			return err
		}
		folder, start = filepath.Split(real)
		if folder == "" {
			folder = "."
		}
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	p := &packer{ctx: ctx, out: tar.NewWriter(w), root: root, top: top, links: map[fileID]string{}, report: report}
	if info.IsDir() {
		err = fs.WalkDir(root.FS(), start, p.add)
	} else {
		err = p.addFile(start, top)
	}
	if err != nil {
		return err
	}
	return p.out.Close()
}

// add adds one entry of the tree.
func (p *packer) add(name string, _ fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	if p.top == "" && name == "." {
		return nil
	}
	return p.addFile(name, path.Join(p.top, name))
}

// addFile adds the file name of the root as entry.
func (p *packer) addFile(name, entry string) error {
	if err := context.Cause(p.ctx); err != nil {
		return err
	}
	info, err := p.root.Lstat(name)
	if err != nil {
		return err
	}
	target := ""
	switch info.Mode().Type() {
	case 0, fs.ModeDir:
	case fs.ModeSymlink:
		if target, err = p.root.Readlink(name); err != nil {
			return err
		}
	default:
		p.report(entry, "it is neither a file nor a folder nor a link")
		return nil
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	// The ids and names of this machine's users mean nothing in the guest.
	*header = tar.Header{
		Typeflag: header.Typeflag, Name: entry, Linkname: filepath.ToSlash(header.Linkname), Size: header.Size,
		Mode: int64(info.Mode().Perm()), ModTime: info.ModTime(), Format: tar.FormatPAX,
	}
	if info.IsDir() {
		header.Name += "/"
	}
	if id, ok := several(info); ok && info.Mode().IsRegular() {
		if first := p.links[id]; first != "" {
			header.Typeflag, header.Linkname, header.Size = tar.TypeLink, first, 0
		} else {
			p.links[id] = entry
		}
	}
	if header.Typeflag != tar.TypeReg {
		return p.out.WriteHeader(header)
	}
	return p.addContent(name, header)
}

// addContent adds a regular file. Its size is that of the open file; what is appended to
// it meanwhile is left out.
func (p *packer) addContent(name string, header *tar.Header) error {
	f, err := p.root.OpenFile(name, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s: is no longer a regular file", name)
	}
	header.Size = info.Size()
	if err := p.out.WriteHeader(header); err != nil {
		return err
	}
	n, err := io.CopyN(p.out, reader{p.ctx, f}, header.Size)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: became shorter while it was read: %d instead of %d bytes", name, n, header.Size)
	}
	return err
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
