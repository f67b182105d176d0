// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// blockSize is the size of a tar block in bytes.
const blockSize = 512

// archive writes an image in docker-save form: manifest.json, the config and
// the layers. Each layer is written once and uncompressed, so that no guest has
// to unpack it again. The same image always gives the same bytes.
type archive struct {
	f        *os.File
	offset   int64
	maxBytes int64
	space    *space
}

// writeImage writes the whole image and verifies all of it.
func (a *archive) writeImage(ctx context.Context, c content, img *image, progress func(n int64)) error {
	if err := a.writeFile("manifest.json", img.saveManifest()); err != nil {
		return err
	}
	if err := a.writeFile(img.configName(), img.config); err != nil {
		return err
	}
	written := map[v1.Hash]bool{}
	for i, layer := range img.layers {
		if written[img.diffIDs[i]] {
			progress(layer.Size)
			continue
		}
		written[img.diffIDs[i]] = true
		if err := a.writeLayer(ctx, c, layer, img.diffIDs[i], progress); err != nil {
			return err
		}
	}
	return a.finish()
}

func (i *image) configName() string               { return i.name.Hex + ".json" }
func layerName(diffID v1.Hash) string             { return diffID.Hex + "/layer.tar" }
func padding(size int64) int64                    { return (blockSize - size%blockSize) % blockSize }
func (a *archive) room() int64                    { return a.maxBytes - a.offset }
func hexOf(sum hash.Hash) string                  { return hex.EncodeToString(sum.Sum(nil)) }
func matchesDigest(sum hash.Hash, h v1.Hash) bool { return hexOf(sum) == h.Hex }

func (i *image) saveManifest() []byte {
	layers := make([]string, len(i.diffIDs))
	for n, diffID := range i.diffIDs {
		layers[n] = layerName(diffID)
	}
	// It holds only strings, so this cannot fail.
	raw, _ := json.Marshal([]any{struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{i.configName(), nil, layers}})
	return raw
}

func (a *archive) writeFile(name string, data []byte) error {
	return a.writeEntry(name, bytes.NewReader(data))
}

// writeEntry writes a file of unknown length. It leaves room for the header and
// fills it in when the length is known.
func (a *archive) writeEntry(name string, r io.Reader) error {
	start := a.offset
	if _, err := a.f.Seek(start+blockSize, io.SeekStart); err != nil {
		return err
	}
	limited := &io.LimitedReader{R: r, N: a.room() + 1}
	size, err := io.CopyBuffer(&checkedWriter{w: a.f, space: a.space}, struct{ io.Reader }{limited}, make([]byte, copyBuffer))
	if err != nil {
		return err
	}
	if limited.N <= 0 {
		return errUnpacksTooLarge
	}
	header, err := header(name, size)
	if err != nil {
		return err
	}
	if _, err := a.f.WriteAt(header, start); err != nil {
		return err
	}
	if _, err := a.f.Write(make([]byte, padding(size))); err != nil {
		return err
	}
	a.offset = start + blockSize + size + padding(size)
	return nil
}

// header returns one block. Its format has room for any size, and it holds no
// time or owner.
func header(name string, size int64) ([]byte, error) {
	var b bytes.Buffer
	err := tar.NewWriter(&b).WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0), Format: tar.FormatGNU,
	})
	if err == nil && b.Len() != blockSize {
		err = fmt.Errorf("header of %s has %d bytes", name, b.Len())
	}
	return b.Bytes(), err
}

func (a *archive) finish() error {
	_, err := a.f.Write(make([]byte, 2*blockSize))
	return err
}

var errUnpacksTooLarge = errors.New("unpacked")

// writeLayer reads the layer, verifies it, decompresses it, verifies the result
// and writes it. All steps run concurrently.
func (a *archive) writeLayer(ctx context.Context, c content, layer v1.Descriptor, diffID v1.Hash, progress func(int64)) error {
	ctx, cancel := context.WithCancel(ctx)
	body, err := c.blob(ctx, layer)
	if err != nil {
		cancel()
		return err
	}
	packed := &hashingReader{r: io.LimitReader(body, layer.Size+1), sum: sha256.New(), progress: progress}
	ahead := readAhead(packed)
	defer func() {
		cancel() // first, because a read may be waiting for the network
		ahead.stopReading()
		body.Close()
	}()
	plain, err := decompress(ahead)
	if err == nil {
		err = a.writePlain(layerName(diffID), plain, diffID, cancel)
	}
	// Check the digest of the compressed bytes first: any other problem may
	// follow from a wrong one.
	if err == nil || errors.Is(err, errContent) {
		if _, drained := io.Copy(io.Discard, ahead); drained != nil {
			return drained
		}
		ahead.stopReading()
		if packed.n != layer.Size || !matchesDigest(packed.sum, layer.Digest) {
			return corrupted("layer", layer.Digest)
		}
	}
	if errors.Is(err, errUnpacksTooLarge) {
		return ownErrorf("the image unpacks to more than the %s that this node allows (--image-max-bytes): use a smaller image, or raise the limit", bytesText(a.maxBytes))
	}
	return err
}

// errContent means that the layer's content is invalid.
var errContent = errors.New("cannot be unpacked")

// writePlain writes the decompressed layer. If it fails for a reason other than
// the content of plain, it calls stop, which ends plain.
func (a *archive) writePlain(name string, plain io.ReadCloser, diffID v1.Hash, stop func()) error {
	defer plain.Close()
	ahead := readAhead(plain)
	defer ahead.stopReading()
	sum := sha256.New()
	if err := a.writeEntry(name, io.TeeReader(ahead, sum)); err != nil {
		if !errors.Is(err, errContent) {
			stop()
		}
		return err
	}
	if !matchesDigest(sum, diffID) {
		return ownErrorf("the content of an unpacked layer does not match the image config (%s), so it %w", diffID, errContent)
	}
	return nil
}

// decompress returns the decompressed layer. It detects the compression by the
// first bytes, because media types can be wrong.
func decompress(r *aheadReader) (io.ReadCloser, error) {
	magic, err := r.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, unpackError(r)
		}
		return &unpackReader{r: z, from: r, close: func() { _ = z.Close() }}, nil
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		// Decode one frame at a time, with a bounded window: the sender chooses
		// the window size.
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, unpackError(r)
		}
		return &unpackReader{r: z, from: r, close: z.Close}, nil
	}
	return io.NopCloser(r), nil
}

// unpackError distinguishes a broken layer from a broken connection. It does not
// show the decoder's error, which is about bytes that a registry sent.
func unpackError(from *aheadReader) error {
	if from.err != nil && !errors.Is(from.err, io.EOF) {
		return from.err
	}
	return ownErrorf("a layer %w: its compressed content is invalid", errContent)
}

type unpackReader struct {
	r     io.Reader
	from  *aheadReader
	close func()
}

func (u *unpackReader) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = unpackError(u.from)
	}
	return n, err
}

func (u *unpackReader) Close() error {
	u.close()
	return nil
}

// hashingReader hashes and counts the bytes that are read through it.
type hashingReader struct {
	r        io.Reader
	sum      hash.Hash
	n        int64
	progress func(int64)
}

func (s *hashingReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	_, _ = s.sum.Write(p[:n]) // never fails
	s.n += int64(n)
	s.progress(int64(n))
	return n, err
}
