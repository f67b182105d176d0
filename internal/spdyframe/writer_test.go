// SPDX-License-Identifier: Apache-2.0

package spdyframe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
)

// written records what is written at a time.
type written struct {
	pieces [][]byte
	err    error
}

func (w *written) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	w.pieces = append(w.pieces, bytes.Clone(p))
	return len(p), nil
}

// dataFrame returns a frame with n bytes after its head.
func dataFrame(n int) []byte {
	out := binary.BigEndian.AppendUint32(nil, 1)
	out = binary.BigEndian.AppendUint32(out, uint32(n))
	return append(out, bytes.Repeat([]byte{byte(n)}, n)...)
}

// A frame that arrives in the library's pieces is written at once.
func TestWholeFrames(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 4, 500, 32 << 10, 64 << 10} {
		to := &written{}
		w := &Writer{To: to}
		frame := dataFrame(n)
		for _, piece := range [][]byte{frame[:4], frame[4:HeadSize], frame[HeadSize:]} {
			if got, err := w.Write(piece); got != len(piece) || err != nil {
				t.Fatalf("%d bytes: write: got %d, %v", n, got, err)
			}
		}
		if len(to.pieces) != 1 || !bytes.Equal(to.pieces[0], frame) {
			t.Errorf("%d bytes: got %d pieces, want the frame", n, len(to.pieces))
		}
		if !w.Between() {
			t.Errorf("%d bytes: got an open frame, want none", n)
		}
	}
}

// However the frames are cut, all bytes come in their order, and nothing is held once a
// frame is complete.
func TestAnyPieces(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var all []byte
		for range 1 + random.IntN(5) {
			all = append(all, dataFrame(random.IntN([]int{3, 100, 3 * maxHeld}[random.IntN(3)]))...)
		}
		to := &written{}
		w := &Writer{To: to}
		for rest := all; len(rest) > 0; {
			n := 1 + random.IntN(min(len(rest), []int{4, 100, 2 * maxHeld}[random.IntN(3)]))
			if _, err := w.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			if len(w.held) > maxHeld || w.Between() && len(w.held) > 0 {
				t.Fatalf("holds %d bytes, between frames: %v", len(w.held), w.Between())
			}
			rest = rest[n:]
		}
		if got := bytes.Join(to.pieces, nil); !bytes.Equal(got, all) {
			t.Fatalf("got %d bytes, want the %d that were written", len(got), len(all))
		}
	}
}

// An error of the writer reaches the caller.
func TestError(t *testing.T) {
	t.Parallel()
	want := errors.New("broken")
	w := &Writer{To: &written{err: want}}
	frame := dataFrame(10)
	if _, err := w.Write(frame[:HeadSize]); err != nil {
		t.Errorf("write a head: got %v, want no error", err)
	}
	if _, err := w.Write(frame[HeadSize:]); !errors.Is(err, want) {
		t.Errorf("write the rest: got %v, want %v", err, want)
	}
}
