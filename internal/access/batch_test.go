// SPDX-License-Identifier: Apache-2.0

package access

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// sent records what is sent at a time.
type sent struct {
	pieces []string
	err    error
}

func (s *sent) Write(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	s.pieces = append(s.pieces, string(p))
	return len(p), nil
}

// What follows a pause is sent at once. What follows that is gathered, but not for long.
func TestBatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		to := &sent{}
		b := &batch{to: to}
		write := func(p string) {
			t.Helper()
			if n, err := b.Write([]byte(p)); n != len(p) || err != nil {
				t.Fatalf("write: got %d, %v", n, err)
			}
		}
		want := func(what string, want ...string) {
			t.Helper()
			b.mu.Lock() // the timer sends, too
			defer b.mu.Unlock()
			if got := strings.Join(to.pieces, "|"); got != strings.Join(want, "|") {
				t.Fatalf("%s: got %q, want %q", what, got, want)
			}
		}
		write("a")
		want("after a pause", "a")
		write("b")
		write("c")
		want("more at the same time", "a")
		time.Sleep(batchDelay)
		synctest.Wait()
		want("after the delay", "a", "bc")
		write("d")
		want("right after the delay", "a", "bc")
		b.flush()
		want("at the end", "a", "bc", "d")
		time.Sleep(2 * batchDelay)
		write("e")
		want("after another pause", "a", "bc", "d", "e")
	})
}

// All bytes arrive in their order, in pieces that are large if there is much.
func TestBatchOfMuch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		to := &sent{}
		b := &batch{to: to}
		all := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
		for rest := all; len(rest) > 0; {
			n := min(len(rest), 3000)
			if _, err := b.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		b.flush()
		if got := strings.Join(to.pieces, ""); got != string(all) {
			t.Errorf("got %d bytes, want the %d that were written", len(got), len(all))
		}
		if most := len(all)/batchSize + 2; len(to.pieces) > most {
			t.Errorf("got %d pieces, want at most %d", len(to.pieces), most)
		}
	})
}

// An error ends the output.
func TestBatchFails(t *testing.T) {
	t.Parallel()
	want := errors.New("gone")
	b := &batch{to: &sent{err: want}}
	for range 2 {
		if _, err := b.Write([]byte("a")); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}
