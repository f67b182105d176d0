// SPDX-License-Identifier: Apache-2.0

package atomicfile_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"botbottle.dev/bottle-operator/internal/atomicfile"
)

func TestWrite(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	path := filepath.Join(t.TempDir(), "f")
	for i, step := range []struct {
		text string
		mode fs.FileMode
		want bool
	}{{"one", 0o644, true}, {"one", 0o644, false}, {"one", 0o600, true}, {"two", 0o600, true}, {"two", 0o600, false}} {
		wrote, err := atomicfile.WriteIfChanged(path, []byte(step.text), step.mode)
		if err != nil || wrote != step.want {
			t.Errorf("write %d: got %v, %v, want %v", i, wrote, err, step.want)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode() != step.mode {
			t.Errorf("write %d: got %v, %v, want mode %v", i, info.Mode(), err, step.mode)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != step.text {
			t.Errorf("write %d: got %q, %v, want %q", i, got, err, step.text)
		}
	}
}

// A failed write keeps the old file and leaves no temporary file.
func TestFailedWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(path, []byte("x"), 0o600); err == nil {
		t.Error("path is a folder: got nil, want an error")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("afterwards: got %v, %v, want only the folder", entries, err)
	}
	if err := atomicfile.Write(filepath.Join(dir, "none", "f"), nil, 0o600); err == nil {
		t.Error("missing folder: got nil, want an error")
	}
}
