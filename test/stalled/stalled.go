// SPDX-License-Identifier: Apache-2.0

// Package stalled makes single files behave as on a disk that does not answer.
package stalled

import (
	"errors"
	"io/fs"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// File is a file whose readers block. Writers block, too, because internal/atomicfile reads a
// file before it replaces it.
type File struct {
	t    testing.TB
	path string
	fd   int // -1 until something has tried to read

	ended bool
}

// Make puts such a file in the place of path, until End.
func Make(t testing.TB, path string) *File {
	t.Helper()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatalf("make a pipe at %s: %v", path, err)
	}
	f := &File{t: t, path: path, fd: -1}
	t.Cleanup(f.End)
	return f
}

// Await waits until something tries to read the file.
func (f *File) Await() {
	f.t.Helper()
	for range 10_000 {
		fd, err := unix.Open(f.path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			f.fd = fd
			return
		}
		if !errors.Is(err, unix.ENXIO) {
			f.t.Fatalf("open %s: %v", f.path, err)
		}
		time.Sleep(time.Millisecond)
	}
	f.t.Fatalf("nothing reads %s", f.path)
}

// End unblocks the reader, which finds the file empty, and removes the file.
func (f *File) End() {
	if f.ended {
		return
	}
	f.ended = true
	if err := os.Remove(f.path); err != nil {
		f.t.Errorf("remove the pipe: %v", err)
	}
	if f.fd >= 0 {
		_ = unix.Close(f.fd) // nothing was written
	}
}
