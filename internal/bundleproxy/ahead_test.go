// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
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

// TestStreamPausesAfterManyBytes checks that the guest gets all that a host has sent when
// the host pauses, also where the bundle reads ahead and collects what it writes.
func TestStreamPausesAfterManyBytes(t *testing.T) {
	ow := newOpenedWorld(t, credentialRule)
	sizes := []int{2*aheadAfter + 1, 1, largeCork + 5, 3, 40000}
	for _, version := range []string{"1.1", "2"} {
		seen := make(chan struct{})
		ow.setHandler(func(rw http.ResponseWriter, _ *http.Request) {
			for _, size := range sizes {
				_, _ = io.CopyN(rw, &pattern{}, int64(size))
				_ = http.NewResponseController(rw).Flush()
				<-seen
			}
		})
		resp, err := ow.client(version).Do(request(http.MethodGet, "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		for i, size := range sizes {
			if n, err := io.CopyN(io.Discard, resp.Body, int64(size)); err != nil {
				t.Errorf("HTTP/%s, piece %d: got %d bytes, %v, want %d before the host sends more", version, i, n, err, size)
			}
			seen <- struct{}{}
		}
		if n, err := io.Copy(io.Discard, resp.Body); n > 0 || err != nil {
			t.Errorf("HTTP/%s: got %d more bytes, %v, want the end", version, n, err)
		}
		resp.Body.Close()
	}
}
