// SPDX-License-Identifier: Apache-2.0

// Package sparsefile stores a file that consists mostly of zeros without them, such as a
// formatted disk. An image cannot hold holes, and unpacking 30 GiB of compressed zeros
// takes minutes on a slow node.
//
// The file begins with a line that identifies the format. Then follow pieces of the file in ascending order,
// each an offset (8 bytes, big endian), a length (4 bytes) and that many bytes. A piece of
// length zero is the last one, and its offset is the size of the file.
package sparsefile

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Suffix is the usual suffix of such files.
const Suffix = ".sparse"

const (
	magic = "bottle-sparse-file 1\n"
	// blockSize is the size of the pieces, and that of a file system's blocks.
	blockSize = 4 << 10
	// header is the size of a piece without its bytes.
	header = 12
)

var zeros [blockSize]byte

// Encode reads a file from r until its end, and writes it to w.
func Encode(ctx context.Context, w io.Writer, r io.Reader) error {
	out, in := bufio.NewWriter(w), bufio.NewReaderSize(r, 1<<20)
	if _, err := out.WriteString(magic); err != nil {
		return err
	}
	piece := make([]byte, header+blockSize)
	var at uint64
	for {
		n, err := io.ReadFull(in, piece[header:])
		end := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !end {
			return err
		}
		if block := piece[header:][:n]; !bytes.Equal(block, zeros[:n]) {
			binary.BigEndian.PutUint64(piece, at)
			binary.BigEndian.PutUint32(piece[8:], uint32(n))
			if _, err := out.Write(piece[:header+n]); err != nil {
				return err
			}
		}
		if at += uint64(n); end {
			binary.BigEndian.PutUint64(piece, at)
			binary.BigEndian.PutUint32(piece[8:], 0)
			_, err := out.Write(piece[:header])
			return errors.Join(err, out.Flush())
		}
		if at%(64<<20) == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// Output is a new, empty file.
type Output interface {
	io.WriterAt
	Truncate(size int64) error
}

// Limits bound what Decode writes.
type Limits struct {
	// Size is the most bytes that the file has, with its holes.
	Size int64
	// Data is the most bytes that are written.
	Data int64
}

// Decode reads from r what Encode wrote, and writes the file with holes. Anything else is
// an error: what r has is not trusted.
func Decode(ctx context.Context, out Output, r io.Reader, limits Limits) error {
	in := bufio.NewReaderSize(r, 1<<16)
	name := make([]byte, len(magic))
	if _, err := io.ReadFull(in, name); err != nil || string(name) != magic {
		return errors.Join(errors.New("it is not a sparse file"), err)
	}
	var head [header]byte
	block := make([]byte, blockSize)
	var end, data int64
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return fmt.Errorf("the sparse file ends too early: %w", err)
		}
		offset, n := binary.BigEndian.Uint64(head[:]), binary.BigEndian.Uint32(head[8:])
		if n > blockSize || offset > uint64(limits.Size) || int64(offset) < end || int64(offset)+int64(n) > limits.Size || data+int64(n) > limits.Data {
			return errors.New("the sparse file has an invalid piece, or is too large")
		}
		if n == 0 {
			if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
				return errors.Join(errors.New("something follows the sparse file's last piece"), err)
			}
			return out.Truncate(int64(offset))
		}
		if _, err := io.ReadFull(in, block[:n]); err != nil {
			return fmt.Errorf("the sparse file ends too early: %w", err)
		}
		if _, err := out.WriteAt(block[:n], int64(offset)); err != nil {
			return err
		}
		end, data = int64(offset)+int64(n), data+int64(n)
	}
}
