// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"

	"botbottle.dev/bottle-operator/internal/atomicfile"
	"botbottle.dev/bottle-operator/internal/flatten"
)

const (
	tempPrefix  = atomicfile.TempPrefix
	archiveMode = fs.FileMode(0o644)
)

var (
	hexDigest  = regexp.MustCompile(`^[0-9a-f]{64}$`)
	storedName = regexp.MustCompile(`^([0-9a-f]{64})(\.flat\.tar|\.smolmachine)$`)
)

// form is the kind of a file in the store, and the extension of its name.
type form string

const (
	// formArchive is an archive of one layer. Those of earlier releases have
	// another name, layeredName.
	formArchive  form = ".flat.tar"
	formArtifact form = ".smolmachine"
)

// noun names the form in messages.
func (f form) noun() string {
	if f == formArtifact {
		return "artifact"
	}
	return "image"
}

// files are the archives and artifacts on the node, by digest. Each is complete and
// never changes.
type files struct {
	dir      string
	renameMu sync.Mutex // guards adding and removing files
}

// path returns the path of the file with this digest, sha256:HEX.
func (s *files) path(digest string, as form) string {
	return filepath.Join(s.dir, strings.TrimPrefix(digest, "sha256:")+string(as))
}

// present reports whether the file exists, complete and readable by VMMs. A file
// is renamed into place with that mode. A file with another mode was changed by
// somebody and is made again.
func (s *files) present(digest string, as form) (size int64, ok bool) {
	info, err := os.Lstat(s.path(digest, as))
	if err != nil || info.Mode() != archiveMode {
		return 0, false
	}
	return info.Size(), true
}

// temporary is a file that is being written and is not in the store yet.
type temporary struct {
	*os.File
	kept bool
}

func (s *files) newTemporary() (*temporary, error) {
	f, err := os.CreateTemp(s.dir, tempPrefix+"*")
	if err != nil {
		return nil, s.diskError(err)
	}
	return &temporary{File: f}, nil
}

// keep moves the file to the path of the digest. Even after a crash, the file is
// either complete or absent there. An existing file stays, because it may be
// linked into smolvm's cache.
func (s *files) keep(t *temporary, digest string, as form) error {
	s.renameMu.Lock()
	defer s.renameMu.Unlock()
	if _, ok := s.present(digest, as); ok {
		return nil
	}
	if err := atomicfile.Replace(t.File, s.path(digest, as), archiveMode); err != nil {
		return s.diskError(err)
	}
	t.kept = true
	return nil
}

// discard closes the file, and removes it unless keep has kept it.
func (t *temporary) discard() {
	_ = t.Close() // already synced, or not needed
	if !t.kept {
		_ = os.Remove(t.Name()) // otherwise removed at the next start
	}
}

// sweepTemporaries removes the half-written files, and the unpacked layers,
// that an agent which died left behind.
func (s *files) sweepTemporaries() error {
	if err := flatten.Sweep(context.Background(), s.dir); err != nil {
		return fmt.Errorf("folder of images: %w", err)
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("folder of images: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			if err := os.Remove(filepath.Join(s.dir, e.Name())); err != nil {
				return fmt.Errorf("folder of images: %w", err)
			}
		}
	}
	return nil
}

// space checks that one image leaves enough of the filesystem free.
type space struct {
	dir     string
	reserve int64
	// written counts the bytes of the image so far. The field since counts those
	// after the last check.
	written, since int64
}

// checkEvery is how many bytes are written between two checks of the disk.
const checkEvery = 64 << 20

// check fails if writing this many more bytes would not leave the reserve free.
func (s *space) check(bytes int64) error {
	if s.reserve < 0 {
		return nil
	}
	d, err := diskOf(s.dir)
	if err != nil {
		return err
	}
	if d.free-s.reserve >= bytes { // a sum could overflow, because the sizes are only claimed
		return nil
	}
	return errDisk{text: fmt.Sprintf("the node's disk is full: %s is free below %s, but %s must stay free (--image-reserve-bytes) in addition to the image's %s: free some space; the image is then pulled automatically",
		bytesText(roughly(d.free)), s.dir, bytesText(s.reserve), bytesText(bytes)), need: need{bytes, bytes}}
}

// willWrite counts bytes that are about to be written, and checks every
// checkEvery bytes that the disk has room for them.
func (s *space) willWrite(n int64) error {
	s.written += n
	if s.since += n; s.since < checkEvery {
		return nil
	}
	s.since = 0
	err := s.check(n)
	if full := (errDisk{}); errors.As(err, &full) {
		full.need = need{} // n counts as written
		err = full
	}
	return s.withNeed(err)
}

// withNeed adds the bytes written so far to the need of a full disk.
func (s *space) withNeed(err error) error {
	if noSpace(err) {
		err = fullDisk(s.dir)
	}
	return addNeed(need{s.written, 2 * s.written}, err)
}

// roughly rounds n down, so that a condition's message does not change with
// every byte.
func roughly(n int64) int64 { return n &^ (64<<20 - 1) }

func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func fullDisk(dir string) errDisk {
	return errDisk{text: fmt.Sprintf("the node's disk is full: no space is left below %s: free some space; the image is then pulled automatically", dir)}
}

func (s *files) diskError(err error) error {
	if noSpace(err) {
		return fullDisk(s.dir)
	}
	// Leave out the file name, which is different each time.
	if path := (*fs.PathError)(nil); errors.As(err, &path) && strings.HasPrefix(path.Path, s.dir+"/") {
		return errDisk{broken: true, text: fmt.Sprintf("the node's folder of images %s: %s: %v", s.dir, path.Op, path.Err)}
	}
	return err
}

// checkedWriter writes only while there is enough space.
type checkedWriter struct {
	w     io.Writer
	space *space
}

func (c *checkedWriter) Write(p []byte) (int, error) {
	if err := c.space.willWrite(int64(len(p))); err != nil {
		return 0, err
	}
	n, err := c.w.Write(p)
	return n, c.space.withNeed(err)
}

// contextReader ends a copy between two reads when ctx is done.
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
