// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// errContent means that the layer's content is invalid.
var errContent = errors.New("cannot be unpacked")

// layerReader decompresses a layer. At the end it verifies the digests of both
// forms, so whoever reads it must not trust it before. Fetching, hashing and
// decompressing run concurrently.
type layerReader struct {
	layer  v1.Descriptor // without a digest, only the decompressed form is verified
	diffID v1.Hash       // zero if it is not known
	cancel func()
	body   io.Closer
	packed *hashingReader
	ahead  *aheadReader
	plain  io.ReadCloser
	sum    hash.Hash
}

func openLayer(ctx context.Context, c content, layer v1.Descriptor, diffID v1.Hash, progress func(int64)) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	body, err := c.blob(ctx, layer)
	if err != nil {
		cancel()
		return nil, err
	}
	l := &layerReader{layer: layer, diffID: diffID, cancel: cancel, body: body, sum: sha256.New()}
	l.packed = &hashingReader{r: io.LimitReader(body, layer.Size+1), sum: sha256.New(), progress: progress}
	l.ahead = readAhead(l.packed)
	if l.plain, err = decompress(l.ahead); err != nil {
		l.plain = io.NopCloser(nil)
		err = l.explain(err)
		_ = l.Close() // explain may still read
		return nil, err
	}
	return l, nil
}

// Read implements io.Reader.
func (l *layerReader) Read(p []byte) (int, error) {
	n, err := l.plain.Read(p)
	_, _ = l.sum.Write(p[:n]) // never fails
	if err == nil {
		return n, nil
	}
	if err = l.explain(err); errors.Is(err, io.EOF) && l.diffID != (v1.Hash{}) && !matchesDigest(l.sum, l.diffID) {
		err = ownErrorf("the content of an unpacked layer does not match the image config (%s), so it %w", l.diffID, errContent)
	}
	return n, err
}

// explain returns the error for an end or an error of the content. It checks the
// digest of the compressed bytes first: any other problem may follow from a
// wrong one.
func (l *layerReader) explain(err error) error {
	if !errors.Is(err, io.EOF) && !errors.Is(err, errContent) || l.layer.Digest == (v1.Hash{}) {
		return err
	}
	if _, drained := io.Copy(io.Discard, l.ahead); drained != nil {
		return drained
	}
	l.ahead.stopReading()
	if l.packed.n != l.layer.Size || !matchesDigest(l.packed.sum, l.layer.Digest) {
		return corrupted("layer", l.layer.Digest)
	}
	return err
}

// Close implements io.Closer.
func (l *layerReader) Close() error {
	l.cancel() // first, because a read may be waiting for the network
	l.ahead.stopReading()
	l.plain.Close()
	return l.body.Close()
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
