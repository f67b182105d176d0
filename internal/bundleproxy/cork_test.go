// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

// writes keeps each write by itself.
type writes struct {
	all []string
	err error
}

func (w *writes) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	w.all = append(w.all, string(p))
	return len(p), nil
}

func TestCork(t *testing.T) {
	var k cork
	var to writes
	write := func(text string) {
		t.Helper()
		if n, err := k.write(&to, []byte(text)); n != len(text) || err != nil {
			t.Errorf("got %d, %v of a write of %d bytes", n, err, len(text))
		}
	}
	large := strings.Repeat("x", copyBufferSize)
	write("a")
	k.put()
	write("b")
	write("c")
	if want := []string{"a"}; !slices.Equal(to.all, want) {
		t.Errorf("got %q before the cork is pulled, want %q", to.all, want)
	}
	if err := k.pull(&to); err != nil {
		t.Error(err)
	}
	write("d")
	k.put()
	write("e")
	write(large) // what was written before comes first
	write("f")
	if err := k.pull(&to); err != nil {
		t.Error(err)
	}
	if want := []string{"a", "bc", "d", "e", large, "f"}; !slices.Equal(to.all, want) {
		t.Errorf("got %d writes, the first ones %q, want %q", len(to.all), to.all[:min(4, len(to.all))], want[:4])
	}
	k.put()
	write("lost")
	to.err = errors.New("closed")
	if err := k.pull(&to); !errors.Is(err, to.err) {
		t.Errorf("got %v, want the connection's error", err)
	}
	k.put()
	if n, err := k.write(&to, []byte("g")); n != 0 || !errors.Is(err, to.err) {
		t.Errorf("got %d, %v of a later write, want the same error", n, err)
	}
	if k.buf != nil || bytes.Contains([]byte(strings.Join(to.all, "")), []byte("lost")) {
		t.Error("got a buffer that is kept, or bytes of a closed connection")
	}
}
