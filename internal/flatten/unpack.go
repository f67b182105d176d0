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
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	cfs "github.com/containerd/continuity/fs"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// bufferSize is how much is read or written at a time.
const bufferSize = 1 << 20

func layerDir(n int) string { return "/" + strconv.Itoa(n) }

// unpack unpacks layer number n, the lowest of which is 1. The layer is read
// outside of the workplace, because its reader may need files of the node.
func (p *workplace) unpack(ctx context.Context, n int, layer Layer, m *meter) error {
	body, err := layer.Open(ctx)
	if err != nil {
		return err
	}
	defer body.Close()
	r, w := io.Pipe()
	var failed error
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, failed = io.CopyBuffer(struct{ io.Writer }{w}, reader{body, m}, make([]byte, bufferSize))
		_ = w.CloseWithError(failed) // never fails
	}()
	rooms := newRooms(m.limits.Room)
	in := bufio.NewReaderSize(r, bufferSize)
	err = p.inside(func() error { return apply(ctx, n, in, m, rooms) })
	rooms.end()
	if err == nil || errors.Is(err, ErrInvalid) {
		_, _ = io.Copy(io.Discard, in) // failed has the error
	}
	_ = r.Close() // never fails
	<-done
	if failed != nil && !errors.Is(failed, io.ErrClosedPipe) {
		return failed
	}
	return err
}

// rooms calls Limits.Room outside of the workplace.
type rooms struct {
	ask    chan int64
	answer chan error
}

func newRooms(room func(int64) error) *rooms {
	r := &rooms{ask: make(chan int64), answer: make(chan error)}
	go func() {
		for bytes := range r.ask {
			var err error
			if room != nil {
				err = room(bytes)
			}
			r.answer <- err
		}
	}()
	return r
}

func (r *rooms) check(bytes int64) error {
	if bytes == 0 {
		return nil
	}
	r.ask <- bytes
	if err := <-r.answer; err != nil {
		return callerError{err}
	}
	return nil
}

func (r *rooms) end() { close(r.ask) }

// callerError is an error of Limits.Room.
type callerError struct{ error }

func (e callerError) Unwrap() error { return e.error }

// apply unpacks a layer. It runs inside of the workplace.
func apply(ctx context.Context, n int, r io.Reader, m *meter, rooms *rooms) error {
	root := layerDir(n)
	if err := makeDir(root); err != nil {
		return err
	}
	below := make([]string, 0, n-1)
	for i := n - 1; i > 0; i-- {
		below = append(below, layerDir(i))
	}
	named := &names{root: root, lower: n - 1, listed: map[string]bool{}, parents: map[string]bool{}}
	last := &tar.Header{}
	filter := func(h *tar.Header) (bool, error) {
		shrink(last)
		last = h
		folders, err := named.missing(h)
		if err != nil {
			return false, err
		}
		room, err := m.entry(h, folders)
		if err != nil {
			return false, callerError{err}
		}
		if h.Typeflag == tar.TypeGNUSparse {
			h.Typeflag = tar.TypeReg // the reader fills the holes
		}
		if err := m.parents(named.add(h)); err != nil {
			return false, callerError{err}
		}
		return true, rooms.check(room)
	}
	_, err := archive.Apply(quiet(ctx), root, r, archive.WithFilter(filter),
		archive.WithConvertWhiteout(whiteout), archive.WithParents(below))
	if err == nil {
		err = named.restoreTimes(ctx, below)
	}
	return layerError(ctx, n, err)
}

// shrink leaves only what containerd's code needs of an entry after it was
// unpacked. That code keeps the headers of all folders of a layer, each of which
// may have a megabyte of records.
func shrink(h *tar.Header) {
	*h = tar.Header{Typeflag: h.Typeflag, Name: strings.Clone(h.Name), ModTime: h.ModTime, AccessTime: h.AccessTime}
}

// makeDir makes a folder as an engine makes the root directory of a container.
func makeDir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755)
}

// quiet returns a context without containerd's log, which would quote names of
// the layer.
func quiet(ctx context.Context) context.Context {
	silent := logrus.New()
	silent.SetOutput(io.Discard)
	silent.SetLevel(logrus.PanicLevel)
	return log.WithLogger(ctx, logrus.NewEntry(silent))
}

// whiteout converts a whiteout to overlayfs's form. A whiteout concerns lower
// layers only, so it must not fail where the layer itself has the name.
func whiteout(h *tar.Header, name string) (bool, error) {
	write, err := archive.OverlayConvertWhiteout(h, name)
	if !write && errors.Is(err, unix.EEXIST) {
		err = nil
	}
	return write, err
}

// names are the folders that a layer's entries name.
type names struct {
	root    string
	lower   int             // number of the layers below
	listed  map[string]bool // have an entry of their own
	parents map[string]bool // have an entry below them
}

// add returns how many parents were not known yet.
func (n *names) add(h *tar.Header) (added int) {
	name := filepath.Clean("/" + h.Name)
	if h.Typeflag == tar.TypeDir {
		n.listed[name] = true
	}
	for dir := path.Dir(name); dir != "/" && !n.parents[dir]; dir = path.Dir(dir) {
		n.parents[dir] = true
		added++
	}
	return added
}

const (
	// maxDepth bounds how many folders are above a file.
	maxDepth = 512
	// maxLookups bounds the work to make the folders above one file: each looks for
	// its attributes in all layers below, with a lookup for each folder above it.
	maxLookups = 1 << 20
	// maxPath is the longest path that Linux takes, in bytes.
	maxPath = 4096
)

var errDepth = errors.New("a file is in too many folders, or its name is too long")

// missing returns how many folders are made for the entry because they have no
// entry of their own.
func (n *names) missing(h *tar.Header) (folders int, err error) {
	name := filepath.Clean("/" + h.Name)
	if len(name) > maxPath || strings.Count(name, "/") > maxDepth {
		return 0, errDepth
	}
	dir, err := cfs.RootPath(n.root, path.Dir(name))
	if err != nil {
		return 0, err
	}
	depth := strings.Count(dir, "/")
	if depth > maxDepth { // links can lead deeper than the name
		return 0, errDepth
	}
	for ; len(dir) > len(n.root); dir = path.Dir(dir) {
		if _, err := os.Lstat(dir); err == nil {
			break
		}
		folders++
	}
	if folders*depth*n.lower > maxLookups {
		return 0, errDepth
	}
	return folders, nil
}

// restoreTimes sets the times of folders that have no entry of their own, and
// therefore have the time at which they were unpacked. They get the time that
// they have in the layers below, or else the epoch.
func (n *names) restoreTimes(ctx context.Context, below []string) error {
	listed, known := map[string]bool{}, map[string]string{"/": n.root}
	for name := range n.listed {
		if err := ctx.Err(); err != nil {
			return err
		}
		resolved, err := n.resolve(name, known)
		if err != nil {
			return err
		}
		listed[resolved] = true
	}
	for name := range n.parents {
		resolved, err := n.resolve(name, known)
		if err != nil {
			return err
		}
		// The name may lead through links to a folder that is not a parent by
		// its name.
		for ; len(resolved) > len(n.root) && !listed[resolved]; resolved = path.Dir(resolved) {
			if err := ctx.Err(); err != nil {
				return err
			}
			listed[resolved] = true
			if err := restoreTime(n.root, resolved, below); err != nil {
				return err
			}
		}
	}
	return nil
}

// resolve is like continuity's RootPath, which takes a time that is quadratic in the
// depth, and therefore remembers the folders that it has resolved.
func (n *names) resolve(name string, known map[string]string) (string, error) {
	if resolved, ok := known[name]; ok {
		return resolved, nil
	}
	dir, err := n.resolve(path.Dir(name), known)
	if err != nil {
		return "", err
	}
	resolved := dir + "/" + path.Base(name)
	if info, err := os.Lstat(resolved); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		if resolved, err = cfs.RootPath(n.root, name); err != nil {
			return "", err
		}
	}
	known[name] = resolved
	return resolved, nil
}

func restoreTime(root, dir string, below []string) error {
	when := time.Unix(0, 0)
	for _, lower := range below {
		info, err := os.Lstat(lower + dir[len(root):])
		if err == nil {
			if info.IsDir() {
				when = info.ModTime()
			}
			break
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return err
		}
	}
	err := os.Chtimes(dir, when, when)
	if errors.Is(err, fs.ErrNotExist) { // a later entry has replaced it
		return nil
	}
	return err
}

// layerError returns an error that quotes nothing of the layer.
func layerError(ctx context.Context, n int, err error) error {
	var own callerError
	var errno syscall.Errno
	var link *os.LinkError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &own):
		return own.error
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, errDepth):
		return fmt.Errorf("layer %d %w: %w", n, ErrInvalid, errDepth)
	case errors.Is(err, tar.ErrHeader), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fmt.Errorf("layer %d %w: it is not a tar archive, or it is truncated", n, ErrInvalid)
	case errors.As(err, &link) && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOENT)):
		return fmt.Errorf("layer %d %w: a hard link needs a file that comes before it in the same layer", n, ErrInvalid)
	case errors.Is(err, unix.ENOSPC) && hasRoom():
		return fmt.Errorf("layer %d %w: the extended attributes of a file are too large for the node's file system", n, ErrInvalid)
	case errors.As(err, &errno) && isOfNode(errno):
		return fmt.Errorf("unpack layer %d: %w", n, errno)
	case errors.As(err, &errno):
		return fmt.Errorf("layer %d %w: an entry cannot be made: %w", n, ErrInvalid, errno)
	}
	return fmt.Errorf("layer %d %w: an entry is invalid or of a kind that container images do not have", n, ErrInvalid)
}

// hasRoom reports whether the disk has room for more files, so that ENOSPC is about
// a limit of the file system. ext4 has one block for the extended attributes of a
// file.
func hasRoom() bool {
	var st unix.Statfs_t
	return unix.Statfs("/", &st) == nil && st.Ffree > 0 && int64(st.Bavail)*st.Bsize >= roomEvery
}

// isOfNode reports whether the error is about the node's disk or the agent's
// rights, and not about the layer.
func isOfNode(errno syscall.Errno) bool {
	switch errno {
	case unix.ENOSPC, unix.EDQUOT, unix.EIO, unix.EROFS, unix.EPERM, unix.EACCES, unix.ENOMEM, unix.EMFILE, unix.ENFILE, unix.ESTALE:
		return true
	}
	return false
}
