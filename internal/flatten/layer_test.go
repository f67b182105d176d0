// SPDX-License-Identifier: Apache-2.0

package flatten

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"
)

// entry is an entry of a test's layer.
type entry struct {
	tar.Header
	body string
}

// then is the time of every entry that sets none.
var then = time.Unix(1577934245, 0)

func file(name, body string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(body)), ModTime: then}, body}
}

func dir(name string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: then}}
}

func symlink(name, to string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777, ModTime: then}}
}

func hardLink(name, to string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to, Mode: 0o644, ModTime: then}}
}

func special(kind byte, name string, major, minor int64) entry {
	return entry{Header: tar.Header{Typeflag: kind, Name: name, Mode: 0o640, Devmajor: major, Devminor: minor, ModTime: then}}
}

func (e entry) mode(mode int64) entry     { e.Mode = mode; return e }
func (e entry) owner(uid, gid int) entry  { e.Uid, e.Gid = uid, gid; return e }
func (e entry) at(t time.Time) entry      { e.ModTime = t; return e }
func (e entry) format(f tar.Format) entry { e.Format = f; return e }
func (e entry) xattr(name, v string) entry {
	all := map[string]string{"SCHILY.xattr." + name: v}
	for k, v := range e.PAXRecords {
		all[k] = v
	}
	e.PAXRecords = all
	return e
}

// netBindService is the attribute of a program that may bind low ports.
const netBindService = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatalf("%s: %v", e.Name, err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatalf("%s: %v", e.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func layersOf(archives ...[]byte) []Layer {
	var layers []Layer
	for _, a := range archives {
		layers = append(layers, Layer{Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(a)), nil
		}})
	}
	return layers
}

var testLimits = Limits{MaxBytes: 64 << 20, MaxEntries: 10000}

// deep returns a name of n folders.
func deep(n int) string { return strings.Repeat("d/", n-1) + "d" }
