// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

func TestGoMemory(t *testing.T) {
	dir := t.TempDir()
	v2, v1 := filepath.Join(dir, "memory.max"), filepath.Join(dir, "memory.limit_in_bytes")
	for _, tt := range []struct {
		v2, v1 string
		own    int64
		want   int64
	}{
		{"", "", 0, math.MaxInt64},
		{"max\n", "", 0, math.MaxInt64},
		{"134217728\n", "", 0, 134217728 / 100 * 60},
		{"", "134217728\n", 0, 134217728 / 100 * 60},
		{"", "9223372036854771712\n", 0, math.MaxInt64},
		{"0\n", "x\n", 0, math.MaxInt64},
		{"9000000000\n", "", 134217728, 134217728 / 100 * 60}, // as in a Pod
		{"134217728\n", "", 9000000000, 134217728 / 100 * 60},
		{"max\n", "", 134217728, 134217728 / 100 * 60},
	} {
		for file, text := range map[string]string{v2: tt.v2, v1: tt.v1} {
			_ = os.Remove(file)
			if text == "" {
				continue
			}
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := goMemory(tt.own, []string{v2, v1}); got != tt.want {
			t.Errorf("limits %q, %q and %d: got %d, want %d", tt.v2, tt.v1, tt.own, got, tt.want)
		}
	}
}
