// SPDX-License-Identifier: Apache-2.0

// Package imagetree makes image layers with every kind of entry for tests, and
// describes the trees that come of them. It flattens nothing itself.
package imagetree

import (
	"archive/tar"
	"bytes"
	"io"
	"strings"
	"testing"
	"time"
)

// Entry is an entry of a layer.
type Entry struct {
	tar.Header
	Body string
}

// Then is the time of every entry that sets none.
var Then = time.Unix(1577934245, 0)

// File returns a regular file.
func File(name, body string) Entry {
	return Entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(body)), ModTime: Then}, body}
}

// Dir returns a folder of mode 0755.
func Dir(name string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: Then}}
}

// Symlink returns a symbolic link.
func Symlink(name, to string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777, ModTime: Then}}
}

// HardLink returns one more name of a file that comes before it.
func HardLink(name, to string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to, Mode: 0o644, ModTime: Then}}
}

// Special returns a device or a FIFO.
func Special(kind byte, name string, major, minor int64) Entry {
	return Entry{Header: tar.Header{Typeflag: kind, Name: name, Mode: 0o640, Devmajor: major, Devminor: minor, ModTime: Then}}
}

// Chmod returns the entry with another mode.
func (e Entry) Chmod(mode int64) Entry { e.Mode = mode; return e }

// Owner returns the entry with another owner.
func (e Entry) Owner(uid, gid int) Entry { e.Uid, e.Gid = uid, gid; return e }

// At returns the entry with another time.
func (e Entry) At(t time.Time) Entry { e.ModTime = t; return e }

// In returns the entry in another format.
func (e Entry) In(f tar.Format) Entry { e.Format = f; return e }

// Xattr returns the entry with one more extended attribute.
func (e Entry) Xattr(name, v string) Entry {
	all := map[string]string{"SCHILY.xattr." + name: v}
	for k, v := range e.PAXRecords {
		all[k] = v
	}
	e.PAXRecords = all
	return e
}

// NetBindService is the attribute of a program that may bind low ports.
const NetBindService = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// Tar returns a layer.
func Tar(t testing.TB, entries ...Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatalf("%s: %v", e.Name, err)
		}
		if _, err := io.WriteString(w, e.Body); err != nil {
			t.Fatalf("%s: %v", e.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Deep returns a name of n nested folders.
func Deep(n int) string { return strings.Repeat("d/", n-1) + "d" }
