// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

// fileID changes whenever the file is replaced or written to.
type fileID struct {
	dev, ino     uint64
	size         int64
	mtime, ctime int64
}

func identify(info fs.FileInfo) fileID {
	id := fileID{size: info.Size(), mtime: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id.dev, id.ino, id.ctime = st.Dev, st.Ino, st.Ctim.Nano()
	}
	return id
}

// openBelow opens the file at name below dir. It does not follow links and does
// not leave dir.
func openBelow(dir int, name string) (*os.File, fs.FileInfo, error) {
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// locals takes images and artifacts from the node: from its folder of local images, and
// from its Docker Engine.
type locals struct {
	o *Options
	*builder
	*fetcher
}

// openLocal opens NAME of file:NAME, which is a regular file or a folder.
// Otherwise the error is host.ErrNotFound.
func (s *locals) openLocal(name string) (*os.File, fs.FileInfo, error) {
	local := s.o.LocalDir
	dir, err := unix.Open(local, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if local == "" || errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("image archive %s: %w: the node's folder of local images %q does not exist (--local-image-dir)", name, host.ErrNotFound, local)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("folder of local images %s: %w", local, err)
	}
	defer unix.Close(dir)
	f, info, err := openBelow(dir, name)
	switch {
	case err == nil && (info.Mode().IsRegular() || info.IsDir()):
		return f, info, nil
	case err == nil:
		f.Close()
		return nil, nil, fmt.Errorf("image archive %s: %w: it is neither a file nor a folder in %s", name, host.ErrNotFound, local)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return nil, nil, fmt.Errorf("image archive %s: %w in %s", name, host.ErrNotFound, local)
	case errors.Is(err, unix.ELOOP):
		return nil, nil, fmt.Errorf("image archive %s: %w: its path in %s contains a symbolic link, and those are not followed", name, host.ErrNotFound, local)
	}
	return nil, nil, fmt.Errorf("image archive %s in %s: %w", name, local, err)
}

// identifyLocal identifies an archive by its own file, and a layout by its
// index.json.
func (s *locals) identifyLocal(name string) (fileID, error) {
	f, info, err := s.openLocal(name)
	if err != nil {
		return fileID{}, err
	}
	defer f.Close()
	return localID(name, f, info)
}

func localID(name string, f *os.File, info fs.FileInfo) (fileID, error) {
	if !info.IsDir() {
		return identify(info), nil
	}
	index, info, err := openBelow(int(f.Fd()), layoutIndex)
	if err != nil {
		return fileID{}, fmt.Errorf("image archive %s: %w: the folder is not an OCI layout: it has no %s", name, host.ErrNotFound, layoutIndex)
	}
	index.Close()
	return identify(info), nil
}

// takeLocal copies the file or layout that file:NAME names into the store. The
// store keeps it by its content.
func (s *locals) takeLocal(ctx context.Context, j *job) (result, error) {
	f, info, err := s.openLocal(j.name)
	if err != nil {
		return result{}, err
	}
	defer f.Close()
	// The file may have been replaced since the request.
	if j.file, err = localID(j.name, f, info); err != nil {
		return result{}, err
	}
	if j.form == formArtifact {
		return s.takeLocalArtifact(ctx, j, f, info)
	}
	if info.IsDir() {
		return s.takeLayout(ctx, j, folderLayout(f))
	}
	digest, err := s.share(ctx, j, j.fileKey(), func(ctx context.Context, ft *fetch) (string, error) {
		return s.takeArchive(ctx, j, steadyReader{contextReader{ctx, f}, f, j.file}, ft.withTotal(info.Size()))
	})
	return result{digest: digest, fetched: true}, err
}

// fileKey is the same for all jobs that copy the same file.
func (j *job) fileKey() string { return fmt.Sprintf("%s %v %s", j.canonical, j.file, j.requiredDigest) }

// steadyReader fails if the file changes while it is read.
type steadyReader struct {
	r  io.Reader
	f  *os.File
	id fileID
}

func (s steadyReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if errors.Is(err, io.EOF) {
		if info, err := s.f.Stat(); err != nil || identify(info) != s.id {
			return n, errors.New("it changed while it was copied, so it is copied again: write archives elsewhere and rename them into place")
		}
	}
	return n, err
}

// withTotal sets the number of bytes to fetch and returns f.
func (f *fetch) withTotal(n int64) *fetch {
	f.setTotal(n)
	return f
}

// takeArchive makes an archive of one layer from an archive in docker-save form
// or of an OCI layout, the whole of which may be compressed with gzip. It copies
// the source first, because the source may change and is read several times. The
// digest of the image is that of the source in docker-save form, uncompressed.
func (s *locals) takeArchive(ctx context.Context, j *job, r io.Reader, f *fetch) (string, error) {
	room := &space{dir: s.o.Dir, reserve: s.o.Reserve}
	if f.total > s.o.MaxBytes {
		return "", tooLarge(f.total, s.o.MaxBytes)
	}
	if err := room.check(f.total); err != nil {
		return "", err
	}
	t, err := s.newTemporary()
	if err != nil {
		return "", err
	}
	defer t.discard()
	sum := sha256.New()
	plain, err := gunzipped(&hashingReader{r: r, sum: sha256.New(), progress: f.add})
	if err != nil {
		return "", err
	}
	limited := io.LimitReader(plain, s.o.MaxBytes+1)
	n, err := io.CopyBuffer(io.MultiWriter(&checkedWriter{w: t, space: room}, sum), limited, make([]byte, copyBuffer))
	if err != nil {
		return "", err
	}
	if n > s.o.MaxBytes {
		return "", tooLarge(n, s.o.MaxBytes)
	}
	entries, err := scanArchive(t.File)
	if err != nil {
		return "", err
	}
	if layout, ok := entries.layout(t.File); ok {
		res, err := s.convert(ctx, j, layout, f)
		return res.digest, addNeed(need{n, n}, err) // the copy is removed on failure
	}
	c, img, err := entries.saved(t.File)
	if err != nil {
		return "", err
	}
	img.digest = v1.Hash{Algorithm: "sha256", Hex: hexOf(sum)}
	return img.digest.String(), s.writeArchive(ctx, c, img, room, func(int64) {})
}

// gunzipped decompresses r if it is compressed with gzip.
func gunzipped(r io.Reader) (io.Reader, error) {
	b := bufio.NewReaderSize(r, copyBuffer)
	magic, err := b.Peek(2)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if !bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		return b, nil
	}
	return gzip.NewReader(b)
}

// takeLayout takes the image from an OCI layout in a folder.
func (s *locals) takeLayout(ctx context.Context, j *job, l layout) (result, error) {
	out := result{fetched: true}
	var err error
	out.digest, err = s.share(ctx, j, j.fileKey(), func(ctx context.Context, f *fetch) (string, error) {
		res, err := s.convert(ctx, j, l, f)
		out.fetched = res.fetched
		return res.digest, err
	})
	return out, err
}

// convert makes an archive of the layout's image for this node's platform.
func (s *locals) convert(ctx context.Context, j *job, l layout, f *fetch) (result, error) {
	raw, err := l.read(layoutIndex, maxManifestBytes)
	if err != nil {
		return result{}, err
	}
	digest, doc, err := descend(ctx, l, raw, s.o.Architecture)
	if err != nil {
		return result{}, err
	}
	res := result{digest: digest.String()}
	if s.has(res.digest, j) {
		return res, nil
	}
	res.fetched = true
	img, err := inspect(ctx, l, doc, s.o)
	if err != nil {
		return result{}, err
	}
	img.digest = digest
	return res, s.fetchImage(ctx, l, img, f)
}

// takeFromDaemon takes the image that docker-daemon:NAME names now.
func (s *locals) takeFromDaemon(ctx context.Context, j *job) (result, error) {
	id, err := s.o.Daemon.ID(ctx, j.name)
	if err != nil {
		return result{}, fmt.Errorf("the node's Docker Engine: %w", err)
	}
	if hex, ok := strings.CutPrefix(id, "sha256:"); !ok || !hexDigest.MatchString(hex) {
		return result{}, fmt.Errorf("the node's Docker Engine: it has no image %s, only something else with that name", j.name)
	}
	key := host.DaemonPrefix + id
	if digest := s.savedFromDaemon(key); digest != "" {
		return result{digest: digest}, nil
	}
	digest, err := s.share(ctx, j, key, func(ctx context.Context, f *fetch) (string, error) {
		if digest := s.savedFromDaemon(key); digest != "" {
			return digest, nil
		}
		body, err := s.o.Daemon.Save(ctx, id)
		if err != nil {
			return "", fmt.Errorf("the node's Docker Engine: %w", err)
		}
		defer body.Close()
		digest, err := s.takeArchive(ctx, j, contextReader{ctx, body}, f)
		if err == nil {
			s.recordSaved(key, digest)
		}
		return digest, err
	})
	return result{digest: digest, fetched: true}, err
}
