// SPDX-License-Identifier: Apache-2.0

package nodeinstall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/samefile"
)

// packed has the digests of a packed file and of the file that it was unpacked to.
type packed struct {
	Source    string `json:"source"`
	Installed string `json:"installed"`
}

// matches reports whether the folder is a complete and unchanged copy of the source. It
// compares contents, which is much faster than computing digests: until it has returned,
// nobody guards the node's machines. It may return false for a good copy, for example one
// that an earlier release made; then holds decides.
func (p *place) matches(ctx context.Context, source source, name string) bool {
	info, err := p.versions.Lstat(name)
	if err != nil || !info.IsDir() || info.Mode().Perm() != 0o755 {
		return false
	}
	folder, err := p.versions.OpenRoot(name)
	if err != nil {
		return false
	}
	defer folder.Close()
	r, ok := readRecord(folder)
	if !ok || r.Packed == nil {
		return false
	}
	wanted, err := source.list(ctx, listContent)
	if err != nil {
		return false
	}
	installed, err := p.listInstalled(ctx, folder, listContent)
	if err != nil || compare(wanted, installed) != nil {
		return false
	}
	for _, e := range wanted {
		if !e.mode.IsRegular() {
			continue
		}
		if same, err := sameFile(ctx, source.root, folder, e.path, r); err != nil || !same {
			return false
		}
	}
	return true
}

// listContent lists the size of a file in place of its content, which is compared later.
func listContent(_ context.Context, _ *os.Root, _ string, info fs.FileInfo) (string, int64, error) {
	return fmt.Sprint(info.Size()), 0, nil
}

// sameFile reports whether the file of the source is as it was when the version was
// installed, and so is its copy.
func sameFile(ctx context.Context, from, to *os.Root, path string, r record) (bool, error) {
	a, err := openFile(from, path)
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := openFile(to, installedPath(path))
	if err != nil {
		return false, err
	}
	defer b.Close()
	if installedPath(path) == path {
		return samefile.Content(ctx, a, b)
	}
	source, _, err := readContent(ctx, a)
	if err != nil {
		return false, err
	}
	installed, _, err := readContent(ctx, b)
	return err == nil && packed{source, installed} == r.Packed[path], err
}

// openFile opens a regular file. It does not follow a link, and does not wait for the other
// end of a FIFO.
func openFile(root *os.Root, path string) (*os.File, error) {
	f, err := root.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not a regular file")
	}
	if err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return f, nil
}
