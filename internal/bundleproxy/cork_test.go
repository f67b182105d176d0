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
	large, larger := strings.Repeat("x", copyBufferSize), strings.Repeat("y", largeCork)
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
	write(large) // in a larger buffer
	write("f")
	write(larger) // what was written before comes first
	write("g")
	if err := k.pull(&to); err != nil {
		t.Error(err)
	}
	for range maxLargeCorks { // others have all of the larger buffers
		largeCorkSlots <- struct{}{}
		defer func() { <-largeCorkSlots }()
	}
	k.put()
	write("h")
	write(large)
	if err := k.pull(&to); err != nil {
		t.Error(err)
	}
	want := []string{"a", "bc", "d", "e" + large + "f", larger, "g", "h", large}
	if !slices.Equal(to.all, want) {
		t.Errorf("got writes of %v bytes, want %v", lengths(to.all), lengths(want))
	}
	k.put()
	write("lost")
	to.err = errors.New("closed")
	if err := k.pull(&to); !errors.Is(err, to.err) {
		t.Errorf("got %v, want the connection's error", err)
	}
	k.put()
	if n, err := k.write(&to, []byte("i")); n != 0 || !errors.Is(err, to.err) {
		t.Errorf("got %d, %v of a later write, want the same error", n, err)
	}
	if k.buf != nil || bytes.Contains([]byte(strings.Join(to.all, "")), []byte("lost")) {
		t.Error("got a buffer that is kept, or bytes of a closed connection")
	}
}

func lengths(texts []string) []int {
	var out []int
	for _, text := range texts {
		out = append(out, len(text))
	}
	return out
}
