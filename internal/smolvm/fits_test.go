// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
)

// layerFile is an entry of a layer. The content of files is not written: the
// layer has holes instead, so that it takes no room.
type layerFile struct {
	name string
	kind byte // 0 means a regular file
	link string
	size int64
}

// sparseArchive writes an archive in docker-save form that has these layers.
func sparseArchive(t *testing.T, layers ...[]layerFile) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "image.tar")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var names []string
	for i := range layers {
		names = append(names, fmt.Sprintf("%d/layer.tar", i))
	}
	manifest, err := json.Marshal([]any{map[string]any{"Config": "c.json", "Layers": names}})
	if err != nil {
		t.Fatal(err)
	}
	w := holeWriter{t, f}
	w.header(layerFile{name: "manifest.json", size: int64(len(manifest))})
	w.write(manifest)
	w.skip(-len(manifest) & 511)
	for i, files := range layers {
		var size int64 = 1024
		headers := make([][]byte, len(files))
		for j, e := range files {
			headers[j] = headerOf(t, e)
			size += int64(len(headers[j])) + (e.size+511)/512*512
		}
		w.header(layerFile{name: names[i], size: size})
		for j, e := range files {
			w.write(headers[j])
			w.seek((e.size + 511) / 512 * 512)
		}
		w.skip(1024)
	}
	w.skip(1024)
	return name
}

type holeWriter struct {
	t *testing.T
	f *os.File
}

func (w holeWriter) header(e layerFile) { w.write(headerOf(w.t, e)) }

func (w holeWriter) write(b []byte) {
	w.t.Helper()
	if _, err := w.f.Write(b); err != nil {
		w.t.Fatal(err)
	}
}

func (w holeWriter) skip(n int) { w.write(make([]byte, n)) }

func (w holeWriter) seek(n int64) {
	w.t.Helper()
	if _, err := w.f.Seek(n, io.SeekCurrent); err != nil {
		w.t.Fatal(err)
	}
}

// emptyFile is the header of an empty file. A test has many of them, and
// archive/tar takes long to write each.
var emptyFile []byte

func headerOf(t *testing.T, e layerFile) []byte {
	t.Helper()
	if e.size == 0 && e.kind == 0 && len(e.name) < 100 && emptyFile != nil {
		h := bytes.Clone(emptyFile)
		copy(h, make([]byte, 100))
		copy(h, e.name)
		copy(h[148:], "        ")
		sum := 0
		for _, b := range h {
			sum += int(b)
		}
		copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
		return h
	}
	var b bytes.Buffer
	h := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Size: e.size, Mode: 0o644, Format: tar.FormatGNU}
	if h.Typeflag == 0 {
		h.Typeflag = tar.TypeReg
	}
	if err := tar.NewWriter(&b).WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if e.size == 0 && e.kind == 0 {
		emptyFile = b.Bytes()
	}
	return b.Bytes()
}

func TestImageNeed(t *testing.T) {
	long := strings.Repeat("x", 60)
	for what, tt := range map[string]struct {
		layers [][]layerFile
		want   need
	}{
		"whole blocks": {[][]layerFile{{{name: "a", size: 1}, {name: "b", size: 4096}, {name: "c", size: 4097}, {name: "d"}}}, need{4 * 4096, 4}},
		"no content": {[][]layerFile{{
			{name: "dir/", kind: tar.TypeDir}, {name: "short", kind: tar.TypeSymlink, link: "x"}, {name: "long", kind: tar.TypeSymlink, link: long},
			{name: "f", size: 4096}, {name: "hard", kind: tar.TypeLink, link: "f"}, {name: "null", kind: tar.TypeChar}, {name: "fifo", kind: tar.TypeFifo},
		}}, need{3 * 4096, 6}},
		"twice in a layer": {[][]layerFile{{{name: "a", size: 1 << 30}, {name: "./a", size: 1}, {name: "a", size: 2}}}, need{4096, 1}},
		"replaced":         {[][]layerFile{{{name: "a", size: 1 << 30}, {name: "b", size: 1}}, {{name: "./a", size: 1}}}, need{2 * 4096, 2}},
		"removed": {[][]layerFile{
			{{name: "d/", kind: tar.TypeDir}, {name: "d/a", size: 1 << 30}, {name: "e", size: 1}}, {{name: ".wh.d"}},
		}, need{4096, 1}},
		"opaque": {[][]layerFile{
			{{name: "d/", kind: tar.TypeDir}, {name: "d/a", size: 1 << 30}, {name: "d/s/b", size: 1 << 30}},
			{{name: "d/", kind: tar.TypeDir}, {name: "d/.wh..wh..opq"}, {name: "d/c", size: 1}},
		}, need{2 * 4096, 2}},
		"a file over a folder":                   {[][]layerFile{{{name: "d/", kind: tar.TypeDir}, {name: "d/a", size: 1 << 30}}, {{name: "d", size: 1}}}, need{4096, 1}},
		"a whiteout does not hide its own layer": {[][]layerFile{{{name: "b", size: 1}}, {{name: ".wh.a"}, {name: "a", size: 1}}}, need{2 * 4096, 2}},
		"two below each other":                   {[][]layerFile{{{name: "a", size: 1}}, {{name: "b", size: 1}}}, need{2 * 4096, 2}},
	} {
		got, err := imageNeed(t.Context(), sparseArchive(t, tt.layers...))
		if err != nil || got != tt.want {
			t.Errorf("%s: got %+v, %v, want %+v", what, got, err, tt.want)
		}
	}
}

// TestNotJudged checks that an archive that cannot be read is left to smolvm.
func TestNotJudged(t *testing.T) {
	for what, content := range map[string]string{
		"empty":       "",
		"text":        strings.Repeat("no archive ", 1000),
		"no manifest": string(headerOf(t, layerFile{name: "x"})) + strings.Repeat("\x00", 1024),
		"truncated":   string(headerOf(t, layerFile{name: "manifest.json", size: 100})) + "[{",
	} {
		name := filepath.Join(t.TempDir(), "x.tar")
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := imageNeed(t.Context(), name); err != nil || got != (need{}) {
			t.Errorf("%s: got %+v, %v, want nothing", what, got, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := imageNeed(ctx, sparseArchive(t, nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v, want %v", err, context.Canceled)
	}
}

func TestCheckStorage(t *testing.T) {
	var many []layerFile
	for i := range 66_000 {
		many = append(many, layerFile{name: fmt.Sprintf("f%d", i)})
	}
	const gib = int64(1) << 30
	for what, tt := range map[string]struct {
		layer   []layerFile
		storage int64
		want    string // what the message says; "" means that the image fits
	}{
		"fits the default":          {[]layerFile{{name: "a", size: 19 * gib}}, 0, ""},
		"larger than the default":   {[]layerFile{{name: "a", size: 21 * gib}}, 0, "at least 21 GiB when unpacked, but spec.machine.storage is not set, so smolvm makes a disk of 20 GiB: raise"},
		"as large as the disk":      {[]layerFile{{name: "a", size: 3 * gib}}, 3, "at least 3 GiB when unpacked, but spec.machine.storage is 3 GiB"},
		"a little smaller":          {[]layerFile{{name: "a", size: 3*gib - 100<<20}}, 3, ""},
		"fits a large disk":         {[]layerFile{{name: "a", size: 40 * gib}}, 42, ""},
		"more files than inodes":    {many, 1, "has 66000 files, but spec.machine.storage is 1 GiB, which has room for 65536"},
		"a disk larger than a node": {[]layerFile{{name: "a", size: 40 * gib}}, 1 << 40, ""},
	} {
		err := checkStorage(t.Context(), sparseArchive(t, tt.layer), tt.storage)
		if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, host.ErrDiskTooSmall) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %q", what, err, tt.want)
		}
	}
	err := checkStorage(t.Context(), sparseArchive(t, []layerFile{{name: "a", size: 21 * gib}}), 0)
	if !strings.Contains(fmt.Sprint(err), "spec.machine.storage to at least 22Gi") {
		t.Errorf("got %v, want the size that is enough", err)
	}
}
