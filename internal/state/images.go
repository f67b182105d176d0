// SPDX-License-Identifier: Apache-2.0

package state

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNoImage: the archive is not in the folder of local images.
var ErrNoImage = errors.New("no such image archive")

// Images gives local image archives to machines: each content once, as
// images/<sha256>.tar below the state directory, mode 0644 and never changed
// in place, because smolvm hard-links it by content and its VMMs read it as
// users of their own. Images are never removed again.
type Images struct {
	store, local string

	mu    sync.Mutex
	known map[fileID]string // digest of the file as it then was
}

// fileID changes whenever the file is replaced or written to.
type fileID struct {
	dev, ino     uint64
	size         int64
	mtime, ctime int64
}

// Images is the store below d, fed from the folder local.
func (d *Dir) Images(local string) *Images {
	return &Images{store: filepath.Join(d.root, imagesDir), local: local, known: map[fileID]string{}}
}

// Image is an archive that can be given to smolvm.
type Image struct {
	Path   string // absolute
	Digest string // sha256:HEX
}

// Get makes the archive NAME of the local folder available, without following
// a symbolic link and without leaving the folder: ErrNoImage when it is not
// there. A content that is new to the node is read and copied once; ctx ends
// that.
func (i *Images) Get(ctx context.Context, name string) (Image, error) {
	if name == "" || filepath.Base(name) != name {
		return Image{}, fmt.Errorf("image archive %q: not a name", name)
	}
	src, err := i.open(name)
	if err != nil {
		return Image{}, err
	}
	defer func() { _ = src.Close() }() // read only

	info, err := src.Stat()
	if err != nil {
		return Image{}, fmt.Errorf("image archive %s: %w", name, err)
	}
	if !info.Mode().IsRegular() {
		return Image{}, fmt.Errorf("%w: %s in %s is not a regular file", ErrNoImage, name, i.local)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	id := identify(info)
	if digest, ok := i.known[id]; ok {
		if img := i.image(digest); img.present() {
			return img, nil
		}
	}
	digest, err := i.add(ctx, src)
	if err != nil {
		return Image{}, fmt.Errorf("image archive %s: %w", name, err)
	}
	i.known[id] = digest
	return i.image(digest), nil
}

func (i *Images) open(name string) (*os.File, error) {
	dir, err := unix.Open(i.local, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: the folder %s is not there", ErrNoImage, i.local)
		}
		return nil, fmt.Errorf("folder of local images %s: %w", i.local, err)
	}
	defer func() { _ = unix.Close(dir) }() // a path only
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH,
	})
	switch {
	case err == nil:
		return os.NewFile(uintptr(fd), filepath.Join(i.local, name)), nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: %s is not in %s", ErrNoImage, name, i.local)
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("%w: %s in %s is a symbolic link, which is not followed", ErrNoImage, name, i.local)
	}
	return nil, fmt.Errorf("image archive %s in %s: %w", name, i.local, err)
}

func identify(info fs.FileInfo) fileID {
	id := fileID{size: info.Size(), mtime: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id.dev, id.ino, id.ctime = st.Dev, st.Ino, st.Ctim.Nano()
	}
	return id
}

func (i *Images) image(digest string) Image {
	return Image{Path: filepath.Join(i.store, strings.TrimPrefix(digest, "sha256:")+".tar"), Digest: digest}
}

func (img Image) present() bool {
	info, err := os.Lstat(img.Path)
	return err == nil && info.Mode() == 0o644
}

// add copies src into the store under the digest of what was copied.
func (i *Images) add(ctx context.Context, src io.Reader) (digest string, err error) {
	tmp, err := os.CreateTemp(i.store, ".tmp-*")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(tmp, sum), contextReader{ctx, src})
	if err == nil {
		err = tmp.Chmod(0o644)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return "", err
	}
	digest = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	img := i.image(digest)
	if img.present() {
		// The one that is there may be linked into smolvm's cache already.
		return digest, os.Remove(tmp.Name())
	}
	if err = os.Rename(tmp.Name(), img.Path); err != nil {
		return "", err
	}
	return digest, syncDir(i.store)
}

// contextReader ends a copy between two reads.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
