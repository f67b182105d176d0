// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/test/require"
)

// entry is an entry of a tar: a folder if name ends in "/", a hard link if to
// starts with "=", a symlink if to is set otherwise, and else a file.
type entry struct{ name, text, to string }

func makeTar(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: 0o755, Size: int64(len(e.text)), Typeflag: tar.TypeReg}
		switch {
		case strings.HasSuffix(e.name, "/"):
			h.Typeflag = tar.TypeDir
		case strings.HasPrefix(e.to, "="):
			h.Typeflag, h.Linkname = tar.TypeLink, e.to[1:]
		case e.to != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.to
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

const config = `{"config":{"Env":["A=1"],"Cmd":["/bin/run"],"WorkingDir":"/w","User":"7"}}`

// dockerSave returns an archive in docker-save format, with the layers before the
// manifest.
func dockerSave(t *testing.T, layers ...[]byte) []byte {
	var es []entry
	var names []string
	for i, l := range layers {
		name := string(rune('a'+i)) + "/layer.tar"
		es, names = append(es, entry{name: name, text: string(l)}), append(names, `"`+name+`"`)
	}
	es = append(es, entry{name: "c.json", text: config},
		entry{name: "manifest.json", text: `[{"Config":"c.json","Layers":[` + strings.Join(names, ",") + `]}]`})
	return makeTar(t, es...)
}

func unpack(t *testing.T, content []byte) (*Image, error) {
	t.Helper()
	require.Root(t) // unpacking sets owners
	dir := t.TempDir()
	file := filepath.Join(dir, "x.tar")
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return Unpack(file, filepath.Join(dir, "out"))
}

// tree returns the paths below root: files with their text, links with "->" and
// their target.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, path)
		switch {
		case err != nil || rel == ".":
			return err
		case d.IsDir():
			got[rel+"/"] = ""
		case d.Type()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(path)
			got[rel] = "-> " + to
		default:
			b, _ := os.ReadFile(path)
			got[rel] = string(b)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestUnpackAppliesLayersAndWhiteouts(t *testing.T) {
	lower := makeTar(t, entry{name: "bin/"}, entry{name: "bin/run", text: "one"}, entry{name: "etc/keep", text: "k"},
		entry{name: "etc/gone", text: "g"}, entry{name: "opaque/old", text: "o"}, entry{name: "was/dir", text: "x"}, entry{name: "link", to: "/etc"})
	upper := makeTar(t, entry{name: "bin/run", text: "two"}, entry{name: "etc/.wh.gone"}, entry{name: "opaque/new", text: "n"},
		entry{name: "opaque/.wh..wh..opq"}, entry{name: "was", text: "a file now"}, entry{name: "bin/again", to: "=bin/run"})
	img, err := unpack(t, dockerSave(t, lower, gzipped(t, upper)))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"bin/": "", "bin/run": "two", "bin/again": "two", "etc/": "", "etc/keep": "k", "opaque/": "", "opaque/new": "n",
		"was": "a file now", "link": "-> /etc",
	}
	if diff := cmp.Diff(want, tree(t, img.Rootfs)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(Config{Env: []string{"A=1"}, Cmd: []string{"/bin/run"}, WorkingDir: "/w", User: "7"}, img.Config); diff != "" {
		t.Errorf("config (-want +got)\n%s", diff)
	}
}

func TestUnpackReadsOCIAndGzip(t *testing.T) {
	layer := gzipped(t, makeTar(t, entry{name: "hello", text: "hi"}))
	content := makeTar(t,
		entry{name: "index.json", text: `{"manifests":[{"digest":"sha256:other","platform":{"os":"linux","architecture":"s390x"}},{"digest":"sha256:mine"}]}`},
		entry{name: "blobs/sha256/other", text: `{"config":{"digest":"sha256:conf"},"layers":[{"digest":"sha256:lay"}]}`},
		entry{name: "blobs/sha256/mine", text: `{"config":{"digest":"sha256:conf"},"layers":[]}`},
		entry{name: "blobs/sha256/conf", text: config}, entry{name: "blobs/sha256/lay", text: string(layer)})
	img, err := unpack(t, gzipped(t, content))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"hello": "hi"}, tree(t, img.Rootfs)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestUnpackStaysInside(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, layer := range map[string][]byte{
		"absolute link": makeTar(t, entry{name: "d", to: outside}, entry{name: "d/evil", text: "x"}),
		"upward link":   makeTar(t, entry{name: "d", to: strings.Repeat("../", 20) + outside[1:]}, entry{name: "d/evil", text: "x"}),
	} {
		if img, err := unpack(t, dockerSave(t, layer)); err == nil {
			t.Errorf("%s: got %v, want an error", name, img)
		}
	}
	img, err := unpack(t, dockerSave(t, makeTar(t, entry{name: "../../../evil", text: "x"})))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"evil": "x"}, tree(t, img.Rootfs)); diff != "" {
		t.Errorf("upward path (-want +got)\n%s", diff)
	}
	if left := tree(t, outside); len(left) != 0 {
		t.Errorf("got %v outside the image, want nothing", left)
	}
}

func TestUnpackRejectsInvalidArchives(t *testing.T) {
	for name, content := range map[string][]byte{
		"text": []byte("x"), "empty": {}, "no manifest": makeTar(t, entry{name: "a", text: "b"}),
		"broken manifest": makeTar(t, entry{name: "manifest.json", text: "{"}),
		"missing layer":   makeTar(t, entry{name: "c.json", text: config}, entry{name: "manifest.json", text: `[{"Config":"c.json","Layers":["x"]}]`}),
	} {
		if img, err := unpack(t, content); err == nil {
			t.Errorf("%s: got %v, want an error", name, img)
		}
	}
}

func TestUnpackConcurrently(t *testing.T) {
	require.Root(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "x.tar")
	if err := os.WriteFile(file, dockerSave(t, makeTar(t, entry{name: "hello", text: "hi"})), 0o644); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			img, err := Unpack(file, filepath.Join(dir, "out"))
			if err != nil {
				t.Error(err)
				return
			}
			if b, err := os.ReadFile(filepath.Join(img.Rootfs, "hello")); err != nil || string(b) != "hi" {
				t.Errorf("got %q, %v, want hi", b, err)
			}
		})
	}
	all.Wait()
}
