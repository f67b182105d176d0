// SPDX-License-Identifier: Apache-2.0

package samefile

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// A file of the same size that differs at its end is another one.
func TestContent(t *testing.T) {
	open := func(content []byte) *os.File {
		t.Helper()
		name := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	long := bytes.Repeat([]byte{1}, 1<<20+5)
	other := append(slices.Clone(long[:len(long)-1]), 2)
	for _, tt := range []struct {
		a, b []byte
		want bool
	}{{long, long, true}, {long, other, false}, {long, long[1:], false}, {long[:1<<20], long[:1<<20], true}, {nil, nil, true}} {
		if got, err := Content(t.Context(), open(tt.a), open(tt.b)); err != nil || got != tt.want {
			t.Errorf("%d and %d bytes: got %t, %v, want %t", len(tt.a), len(tt.b), got, err, tt.want)
		}
	}
}
