// SPDX-License-Identifier: Apache-2.0

// Package samefile compares the contents of files. It ignores their names and modes.
package samefile

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
)

const blockSize = 1 << 20

// Content reports whether two files have the same content, from their beginnings.
func Content(ctx context.Context, a, b *os.File) (bool, error) {
	infoA, errA := a.Stat()
	infoB, errB := b.Stat()
	if err := errors.Join(errA, errB); err != nil || infoA.Size() != infoB.Size() {
		return false, err
	}
	left, right := make([]byte, blockSize), make([]byte, blockSize)
	for at := int64(0); ; at += blockSize {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		n, errA := a.ReadAt(left, at)
		m, errB := b.ReadAt(right, at)
		if !bytes.Equal(left[:n], right[:m]) {
			return false, nil
		}
		if errors.Is(errA, io.EOF) && errors.Is(errB, io.EOF) {
			return true, nil
		}
		if err := errors.Join(errA, errB); err != nil {
			return false, err
		}
	}
}
