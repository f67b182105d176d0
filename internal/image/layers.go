// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"k8s.io/utils/clock"

	"botbottle.dev/bottle-operator/internal/keyed"
)

const (
	// partialDir is the folder of the layers of images that are not complete.
	partialDir = "partial"
	// partialKept is how long layers stay after the last attempt to pull their image.
	partialKept = time.Hour
)

// partials keeps the layers of images that are not complete yet, so that the next
// attempt goes on where the last one ended, even after a restart of the agent. Each
// image has a folder, named by a hash of the repository and the digest of its manifest,
// with a file for each layer. A file is named by the layer's digest. It holds the layer
// or its start, and it is read only after its digest was verified.
//
// Layers are used only to pull the same manifest from the same repository. Whoever pulls
// it was sent that manifest by the repository, for its own credentials, so it gets
// nothing from here that the repository would not send.
type partials struct {
	dir   string
	clock clock.PassiveClock

	locks keyed.Locks // by folder; held by the pull that uses it
	mu    sync.Mutex
	inUse map[string]int // by folder; those who use it or wait for it
}

func newPartials(dir string, c clock.PassiveClock) *partials {
	return &partials{dir: filepath.Join(dir, partialDir), clock: c, inUse: map[string]int{}}
}

// open returns the folder of the image's layers. It waits for a cancelled pull of the
// same image to end. The caller closes the folder.
func (p *partials) open(ctx context.Context, repository, digest string) (*partial, error) {
	sum := sha256.Sum256([]byte(repository + "@" + digest))
	name := hex.EncodeToString(sum[:])
	p.use(name, 1)
	release, err := p.locks.Acquire(ctx, name)
	if err != nil {
		p.use(name, -1)
		return nil, err
	}
	out := &partial{dir: filepath.Join(p.dir, name), close: func() { release(); p.use(name, -1) }, now: p.clock.Now}
	if err := os.MkdirAll(out.dir, 0o700); err != nil {
		out.close()
		return nil, err
	}
	out.touch()
	return out, nil
}

func (p *partials) use(name string, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inUse[name] += n; p.inUse[name] == 0 {
		delete(p.inUse, name)
	}
}

// kept is the folder of an image that no pull uses.
type kept struct {
	name string
	used time.Time
	size int64
}

// idle returns the folders that no pull uses, the least recently used first.
func (p *partials) idle() ([]kept, error) {
	entries, err := os.ReadDir(p.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("folder of layers: %w", err)
	}
	var out []kept
	for _, e := range entries {
		info, err := e.Info()
		p.mu.Lock()
		used := p.inUse[e.Name()] > 0
		p.mu.Unlock()
		if err == nil && !used {
			out = append(out, kept{name: e.Name(), used: info.ModTime(), size: sizeBelow(filepath.Join(p.dir, e.Name()))})
		}
	}
	slices.SortFunc(out, func(a, b kept) int { return a.used.Compare(b.used) })
	return out, nil
}

// sizeBelow returns the sum of the sizes of the files in a folder, in bytes.
func sizeBelow(dir string) (n int64) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0 // removed meanwhile
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			n += info.Size()
		}
	}
	return n
}

// size returns how many bytes all layers have, whether in use or not.
func (p *partials) size() (n int64) {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return 0
	}
	for _, e := range entries {
		n += sizeBelow(filepath.Join(p.dir, e.Name()))
	}
	return n
}

// remove removes the folder, unless a pull uses it by now.
func (p *partials) remove(k kept) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inUse[k.name] > 0 {
		return false, nil
	}
	if err := os.RemoveAll(filepath.Join(p.dir, k.name)); err != nil {
		return false, fmt.Errorf("remove layers: %w", err)
	}
	return true, nil
}

// expired reports whether no attempt came for too long.
func (p *partials) expired(k kept) bool { return p.clock.Since(k.used) >= partialKept }

// sweep removes what is not a folder of layers, and the folders that are too old. It
// is called at the start, when no pull runs. It does not read the layers: open verifies
// each of them when it is used.
func (p *partials) sweep() error {
	folders, err := p.idle()
	if err != nil {
		return err
	}
	var errs []error
	for _, k := range folders {
		if hexDigest.MatchString(k.name) && validLayers(filepath.Join(p.dir, k.name)) && !p.expired(k) {
			continue
		}
		_, err := p.remove(k)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// validLayers reports whether the folder holds only files as partial makes them, and
// at least one.
func validLayers(dir string) bool {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		return false
	}
	return !slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		info, err := e.Info()
		return err != nil || info.Mode() != layerMode || !hexDigest.MatchString(e.Name())
	})
}

// partial is the folder of the layers of one image. Its user has it for itself.
type partial struct {
	dir   string
	close func()
	now   func() time.Time
}

const layerMode = fs.FileMode(0o600)

func (p *partial) path(layer v1.Hash) string { return filepath.Join(p.dir, layer.Hex) }

// touch records the attempt.
func (p *partial) touch() { _ = os.Chtimes(p.dir, p.now(), p.now()) } // at worst, the layers go early

// remove removes all layers.
func (p *partial) remove() { _ = os.RemoveAll(p.dir) } // otherwise removed when it is old

// have returns how many bytes of the layer are there, whether valid or not.
func (p *partial) have(layer v1.Descriptor) int64 {
	info, err := os.Lstat(p.path(layer.Digest))
	if err != nil || !info.Mode().IsRegular() {
		return 0
	}
	return min(info.Size(), layer.Size)
}

// source is a content that can be read from an offset on.
type source interface {
	content
	// blobFrom returns the bytes of the blob from the offset on.
	blobFrom(ctx context.Context, d v1.Descriptor, offset int64) (io.ReadCloser, error)
}

// fetch makes the layer complete, and verifies it. progress is told about all bytes of
// the layer, those that were there already first. If it fails, it keeps what it has,
// unless that is wrong.
func (p *partial) fetch(ctx context.Context, c source, layer v1.Descriptor, room *space, progress func(int64)) error {
	f, err := os.OpenFile(p.path(layer.Digest), os.O_RDWR|os.O_CREATE, layerMode)
	if err != nil {
		return err
	}
	defer f.Close()
	have, sum, err := hashed(ctx, f, layer.Size)
	if err != nil {
		return err
	}
	progress(have)
	if have < layer.Size {
		if err := p.fetchRest(ctx, c, layer, &layerFile{f: f, offset: have, sum: sum, room: room}, progress); err != nil {
			return err
		}
	}
	if matchesDigest(sum, layer.Digest) {
		return f.Truncate(layer.Size) // in case there was more
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	if have == 0 {
		return corrupted("layer", layer.Digest)
	}
	// What was there may be wrong, for example after a crash of the node.
	progress(-layer.Size)
	return p.fetch(ctx, c, layer, room, progress)
}

// hashed reads what is there of a layer of this size. It leaves the position after it.
func hashed(ctx context.Context, f *os.File, size int64) (int64, hash.Hash, error) {
	sum := sha256.New()
	n, err := io.CopyBuffer(sum, io.LimitReader(contextReader{ctx, f}, size), make([]byte, copyBuffer))
	return n, sum, err
}

func (p *partial) fetchRest(ctx context.Context, c source, layer v1.Descriptor, to *layerFile, progress func(int64)) error {
	ctx, cancel := context.WithCancel(ctx)
	body, err := c.blobFrom(ctx, layer, to.offset)
	if err != nil {
		cancel()
		return err
	}
	ahead := readAhead(&countingReader{r: body, progress: progress})
	defer func() {
		cancel() // first, because a read may be waiting for the network
		ahead.stopReading()
		body.Close()
		p.touch()
	}()
	_, err = io.CopyBuffer(to, struct{ io.Reader }{ahead}, make([]byte, copyBuffer))
	if err == nil && to.offset != layer.Size {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// layerFile writes and hashes the rest of a layer.
type layerFile struct {
	f      *os.File
	offset int64
	sum    hash.Hash
	room   *space
}

func (l *layerFile) Write(b []byte) (int, error) {
	n, err := (&checkedWriter{w: l.f, space: l.room}).Write(b)
	_, _ = l.sum.Write(b[:n]) // never fails
	l.offset += int64(n)
	return n, err
}

// countingReader counts the bytes that are read through it.
type countingReader struct {
	r        io.Reader
	progress func(int64)
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.progress(int64(n))
	return n, err
}

// layersOf returns the layers to fetch, each once.
func layersOf(img *image) (out []v1.Descriptor) {
	for _, l := range img.layers {
		if !slices.ContainsFunc(out, func(o v1.Descriptor) bool { return o.Digest == l.Digest }) {
			out = append(out, l)
		}
	}
	return out
}

// fetched is the content of an image whose layers were all fetched.
type fetched struct {
	content
	*partial
}

// blob implements content.
func (f fetched) blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	file, err := os.Open(f.path(d.Digest))
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", strings.TrimPrefix(d.Digest.String(), "sha256:"), err)
	}
	return struct {
		io.Reader
		io.Closer
	}{contextReader{ctx, file}, file}, nil
}
