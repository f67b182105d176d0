// SPDX-License-Identifier: Apache-2.0

package nodeinstall

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/sparsefile"
)

const (
	// zstandard and sparsefile.Suffix are the suffixes of packed files. Those directly in
	// the version's folder are written unpacked and without the suffix: an image cannot
	// hold the holes of smolvm's disks.
	zstandard = ".zst"
	// maxUnpacked bounds a file that was compressed, with its holes. smolvm's largest
	// one has 20 GiB.
	maxUnpacked = 64 << 30
	// spare is how much of the node's disk stays free.
	spare = 256 << 20
	// recordName is the file in each version's folder that says what was installed.
	recordName = ".installed.json"
	maxRecord  = 64 << 10
)

// record says what was installed. It makes it possible to check a version without
// unpacking its files again.
type record struct {
	// Source is the digest of the files that the version was made from.
	Source string `json:"source"`
	// Installed is the digest of the files in the folder, without the record itself.
	Installed string `json:"installed"`
	// Packed are the files of the source that were packed, by path. It is nil in the
	// records of earlier releases.
	Packed map[string]packed `json:"packed"`
}

// holds reports whether the folder is a complete and unchanged copy of the files with
// this digest.
func (p *place) holds(ctx context.Context, name, digest string) (bool, error) {
	info, err := p.versions.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	folder, err := p.versions.OpenRoot(name)
	if err != nil {
		return false, err
	}
	defer folder.Close()
	r, ok := readRecord(folder)
	if !ok || r.Source != digest {
		return false, nil
	}
	installed, err := p.listInstalled(ctx, folder, digestContent)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	// What cannot be read is not a copy.
	return err == nil && installed.digest() == r.Installed && info.Mode().Perm() == 0o755, nil
}

// readRecord returns false if there is no valid record.
func readRecord(folder *os.Root) (r record, ok bool) {
	info, err := folder.Lstat(recordName)
	if err != nil || !info.Mode().IsRegular() {
		return r, false
	}
	f, err := folder.OpenFile(recordName, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return r, false
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRecord))
	return r, err == nil && json.Unmarshal(text, &r) == nil
}

// listInstalled reads a version's folder without its record and what is ignored.
func (p *place) listInstalled(ctx context.Context, folder *os.Root, content contentReader) (tree, error) {
	s := source{root: folder, ignored: p.ignored}
	names, err := namesIn(folder)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if name != recordName {
			s.names = append(s.names, name)
		}
	}
	slices.Sort(s.names)
	return s.readTree(ctx, content)
}

// copy copies the files into a new folder and returns its name. A folder that a crash
// leaves behind is removed by the next installation.
func (p *place) copy(ctx context.Context, source source, wanted tree) (_ string, err error) {
	if err := p.checkRoom(wanted.data()); err != nil {
		return "", err
	}
	name := newPrefix + rand.Text()
	if err := p.versions.Mkdir(name, 0o700); err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.versions.RemoveAll(name))
		}
	}()
	to, err := p.versions.OpenRoot(name)
	if err != nil {
		return "", err
	}
	defer to.Close()
	if err := p.fill(ctx, source, to, wanted); err != nil {
		return "", err
	}
	// Everything must be on the disk before the folder gets its name.
	return name, unix.Syncfs(p.versionsFD)
}

// fill copies the files into the empty folder to and adds the record.
func (p *place) fill(ctx context.Context, source source, to *os.Root, wanted tree) error {
	for _, e := range wanted {
		if err := copyEntry(ctx, source.root, to, e); err != nil {
			return fmt.Errorf("copy %s: %w", e.path, err)
		}
	}
	installed, err := p.listInstalled(ctx, to, digestContent)
	if err != nil {
		return fmt.Errorf("read the copy: %w", err)
	}
	if err := compare(wanted, installed); err != nil {
		return err
	}
	if err := writeRecord(to, record{wanted.digest(), installed.digest(), packedFiles(wanted, installed)}); err != nil {
		return err
	}
	return to.Chmod(".", 0o755)
}

// checkRoom returns an error if the disk has no room for a version of this size.
func (p *place) checkRoom(size int64) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(p.versionsFD, &st); err != nil {
		return err
	}
	// Packed files are small, so twice their size is enough.
	if free, need := int64(st.Bavail)*st.Bsize, 2*size+spare; free < need {
		return fmt.Errorf("%d MiB are free in /opt/%s, and %d MiB are needed: make room", free>>20, p.name, need>>20)
	}
	return nil
}

func copyEntry(ctx context.Context, from, to *os.Root, e entry) error {
	switch e.mode.Type() {
	case fs.ModeDir:
		if err := to.Mkdir(e.path, 0o755); err != nil {
			return err
		}
		return to.Chmod(e.path, e.mode.Perm())
	case fs.ModeSymlink:
		return to.Symlink(e.content, e.path)
	}
	in, err := openFile(from, e.path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := to.OpenFile(installedPath(e.path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = copyContent(ctx, in, out, e.path)
	return errors.Join(err, out.Chmod(e.mode.Perm()), out.Close())
}

// installedPath returns where a file of the source goes.
func installedPath(path string) string {
	for _, suffix := range []string{zstandard, sparsefile.Suffix} {
		if name, ok := strings.CutSuffix(path, suffix); ok && name != "" && !strings.Contains(path, "/") {
			return name
		}
	}
	return path
}

func copyContent(ctx context.Context, in io.Reader, out *os.File, path string) error {
	switch {
	case installedPath(path) == path:
		return copySparse(ctx, in, out)
	case strings.HasSuffix(path, sparsefile.Suffix):
		return sparsefile.Decode(ctx, out, in, sparsefile.Limits{Size: maxUnpacked, Data: maxData})
	}
	d, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
	if err != nil {
		return err
	}
	defer d.Close()
	return copySparse(ctx, d, out)
}

// copySparse copies in to the empty file out, and leaves holes where it reads zeros.
func copySparse(ctx context.Context, in io.Reader, out *os.File) error {
	block := make([]byte, blockSize)
	var at, data int64
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(in, block)
		end := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !end {
			return err
		}
		if !bytes.Equal(block[:n], zeros[:n]) {
			if _, err := out.WriteAt(block[:n], at); err != nil {
				return err
			}
			data += int64(n)
		}
		if at += int64(n); at > maxUnpacked || data > maxData {
			return fmt.Errorf("more than %d bytes, or %d without zeros", int64(maxUnpacked), int64(maxData))
		}
		if end {
			return out.Truncate(at)
		}
	}
}

// compare returns an error if the copy differs from what was read of the source at
// first. It cannot compare files that were packed.
func compare(wanted, installed tree) error {
	if len(wanted) != len(installed) {
		return fmt.Errorf("the copy has %d files, want %d", len(installed), len(wanted))
	}
	copies := make(map[string]entry, len(installed))
	for _, e := range installed {
		copies[e.path] = e
	}
	for _, want := range wanted {
		got, ok := copies[installedPath(want.path)]
		if !ok || got.mode != want.mode || got.content != want.content && installedPath(want.path) == want.path {
			return fmt.Errorf("%s changed while it was copied", want.path)
		}
	}
	return nil
}

// packedFiles returns the digests of the files that were packed. It is never nil.
func packedFiles(wanted, installed tree) map[string]packed {
	contents := make(map[string]string, len(installed))
	for _, e := range installed {
		contents[e.path] = e.content
	}
	files := map[string]packed{}
	for _, e := range wanted {
		if to := installedPath(e.path); to != e.path {
			files[e.path] = packed{Source: e.content, Installed: contents[to]}
		}
	}
	return files
}

func writeRecord(to *os.Root, r record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := to.OpenFile(recordName, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	return errors.Join(err, f.Chmod(0o644), f.Close())
}
