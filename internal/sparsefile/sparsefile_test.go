// SPDX-License-Identifier: Apache-2.0

package sparsefile

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func create(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

var ample = Limits{Size: 1 << 40, Data: 1 << 30}

func TestRoundTrip(t *testing.T) {
	sparse := make([]byte, 3<<20+17)
	copy(sparse[1<<20-3:], "over the end of a block")
	sparse[len(sparse)-1] = 1
	for name, content := range map[string][]byte{
		"empty": nil, "a byte": {7}, "only zeros": make([]byte, 1<<20+1), "one block": bytes.Repeat([]byte{1}, blockSize), "sparse": sparse,
	} {
		var packed bytes.Buffer
		if err := Encode(t.Context(), &packed, bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		f := create(t)
		if err := Decode(t.Context(), f, bytes.NewReader(packed.Bytes()), ample); err != nil {
			t.Errorf("%s: got %v", name, err)
		}
		got, err := os.ReadFile(f.Name())
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: got %d bytes, %v, want the %d that were packed", name, len(got), err, len(content))
		}
	}
}

// The zeros cost nothing, neither when packed nor on the disk.
func TestHoles(t *testing.T) {
	const size = 512 << 20
	var packed bytes.Buffer
	content := io.MultiReader(io.LimitReader(zeroes{}, size), bytes.NewReader([]byte("end")))
	if err := Encode(t.Context(), &packed, content); err != nil {
		t.Fatal(err)
	}
	f := create(t)
	if err := Decode(t.Context(), f, &packed, ample); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Size != size+3 || st.Blocks*512 > 1<<20 {
		t.Errorf("got %d bytes in %d blocks, %v, want %d bytes in a few blocks", st.Size, st.Blocks, err, size+3)
	}
}

type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func piece(offset uint64, n uint32, content string) string {
	b := binary.BigEndian.AppendUint64(nil, offset)
	return string(binary.BigEndian.AppendUint32(b, n)) + content
}

func TestInvalid(t *testing.T) {
	for name, text := range map[string]string{
		"empty":           "",
		"something else":  "ELF",
		"no end":          magic + piece(0, 1, "x"),
		"half a header":   magic + piece(0, 0, "")[:5],
		"half a piece":    magic + piece(0, 100, "x"),
		"a large piece":   magic + piece(0, blockSize+1, string(make([]byte, blockSize+1))) + piece(1<<20, 0, ""),
		"backwards":       magic + piece(10, 1, "x") + piece(5, 1, "x") + piece(20, 0, ""),
		"overlapping":     magic + piece(0, 2, "xx") + piece(1, 1, "x") + piece(20, 0, ""),
		"ends before":     magic + piece(10, 1, "x") + piece(5, 0, ""),
		"negative":        magic + piece(1<<63, 1, "x") + piece(1<<63, 0, ""),
		"beyond the size": magic + piece(99, 2, "xx") + piece(101, 0, ""),
		"too large":       magic + piece(101, 0, ""),
		"too much data":   magic + piece(0, 3, "xxx") + piece(3, 3, "xxx") + piece(6, 0, ""),
		"more":            magic + piece(0, 0, "") + "x",
	} {
		if err := Decode(t.Context(), create(t), bytes.NewReader([]byte(text)), Limits{Size: 100, Data: 5}); err == nil {
			t.Errorf("%s: got no error, want one", name)
		}
	}
}

func TestContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Encode(ctx, io.Discard, zeroes{}); !errors.Is(err, context.Canceled) {
		t.Errorf("encode: got %v, want the context's error", err)
	}
	if err := Decode(ctx, create(t), bytes.NewReader([]byte(magic+piece(0, 0, ""))), ample); !errors.Is(err, context.Canceled) {
		t.Errorf("decode: got %v, want the context's error", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(magic + piece(0, 1, "x") + piece(5, 0, "")))
	f.Add([]byte(magic + piece(4096, 0, "")))
	f.Fuzz(func(t *testing.T, data []byte) {
		limits := Limits{Size: 1 << 20, Data: 1 << 16}
		out := create(t)
		if Decode(t.Context(), out, bytes.NewReader(data), limits) != nil {
			return
		}
		content, err := os.ReadFile(out.Name())
		if err != nil || int64(len(content)) > limits.Size {
			t.Fatalf("got %d bytes, %v, want at most %d", len(content), err, limits.Size)
		}
		var packed bytes.Buffer
		if err := Encode(t.Context(), &packed, bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		again := create(t)
		if err := Decode(t.Context(), again, &packed, ample); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(again.Name()); err != nil || !bytes.Equal(got, content) {
			t.Fatalf("got another content, %v", err)
		}
	})
}
