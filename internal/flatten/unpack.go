// SPDX-License-Identifier: Apache-2.0

package flatten

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/pkg/archive"
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
