// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"testing/synctest"
)

// TestAheadReader checks that all bytes come in order, whatever the sizes of the reads, with
// the error at the end.
func TestAheadReader(t *testing.T) {
	data := make([]byte, 3*aheadAfter+17)
	_, _ = (&pattern{}).Read(data)
	want := errors.New("broken")
	for name, from := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "halves": iotest.HalfReader, "error with data": iotest.DataErrReader} {
		for _, size := range []int{1000, copyBufferSize, 1 << 20} {
			a := newAheadReader(io.NopCloser(from(io.MultiReader(bytes.NewReader(data), iotest.ErrReader(want)))))
			var got []byte
			var err error
			buf := make([]byte, size)
			for err == nil {
				var n int
				n, err = a.Read(buf)
				got = append(got, buf[:n]...)
			}
			if !errors.Is(err, want) || !bytes.Equal(got, data) {
				t.Errorf("%s, reads of %d: got %d bytes and %v, want all %d and the error", name, size, len(got), err, len(data))
			}
			if _, err := a.Read(buf); !errors.Is(err, want) {
				t.Errorf("%s: got %v after the end, want the error again", name, err)
			}
			_ = a.Close()
		}
	}
}

// TestAheadReaderEnds checks that a reader which is closed early leaves no goroutine.
func TestAheadReaderEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAheadReader(io.NopCloser(&pattern{}))
		if _, err := io.CopyN(io.Discard, a, 2*aheadAfter); err != nil {
			t.Fatal(err)
		}
		_ = a.Close() // otherwise synctest.Test fails: a goroutine is blocked forever
	})
}
