// SPDX-License-Identifier: Apache-2.0

package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/plugin/archive"
)

func ignore(string, string) {}

// pack returns an archive.
func pack(t *testing.T, source, top string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := archive.Pack(context.Background(), &b, source, top, ignore); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// tree describes everything below a folder: modes, times, contents and links.
func tree(t *testing.T, root string) []string {
	t.Helper()
	var out []string
	inodes := map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		line := fmt.Sprintf("%s %s %d", name, info.Mode(), info.ModTime().UnixNano())
		st := info.Sys().(*syscall.Stat_t)
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			line += " -> " + target
		case info.Mode().IsRegular():
			data, _ := os.ReadFile(path)
			line += fmt.Sprintf(" %q", data)
			if first := inodes[st.Ino]; first != "" {
				line += " = " + first
			}
			inodes[st.Ino] = name
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(out)
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// makeTree makes a tree with everything that is kept.
func makeTree(t *testing.T, root string) {
	must(t, os.MkdirAll(filepath.Join(root, "deep/er"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "plain"), []byte("hello"), 0o640))
	must(t, os.WriteFile(filepath.Join(root, "deep/er/run"), nil, 0o755))
	must(t, os.WriteFile(filepath.Join(root, "name with spaces, ünïcode and \n"), []byte{0, 1}, 0o600))
	must(t, os.WriteFile(filepath.Join(root, strings.Repeat("long", 60)), []byte("x"), 0o400))
	must(t, os.Link(filepath.Join(root, "plain"), filepath.Join(root, "deep/hard")))
	must(t, os.Symlink("../plain", filepath.Join(root, "deep/soft")))
	must(t, os.Symlink("/etc/hostname", filepath.Join(root, "absolute")))
	must(t, os.Symlink("nowhere", filepath.Join(root, "dangling")))
	old := time.Date(2001, 2, 3, 4, 5, 6, 789012345, time.UTC)
	for _, name := range []string{"plain", "deep/er/run", "deep/er"} {
		must(t, os.Chtimes(filepath.Join(root, name), old, old))
	}
	must(t, os.Chmod(filepath.Join(root, "deep/er"), 0o550))
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(root, "deep/er"), 0o750) })
	must(t, os.Chtimes(root, old, old))
}

func TestRoundTrip(t *testing.T) {
	source, target := filepath.Join(t.TempDir(), "in"), filepath.Join(t.TempDir(), "out")
	makeTree(t, source)
	result, err := archive.Unpack(context.Background(), bytes.NewReader(pack(t, source, "top")), target, archive.DefaultLimits, ignore)
	must(t, err)
	if diff := cmp.Diff(tree(t, source), tree(t, target)); diff != "" {
		t.Errorf("the copy differs (-want +got):\n%s", diff)
	}
	if result.LinksOutside != 1 {
		t.Errorf("got %d links that lead outside, want 1", result.LinksOutside)
	}
	// Once more, onto what exists.
	_, err = archive.Unpack(context.Background(), bytes.NewReader(pack(t, source, "top")), target, archive.DefaultLimits, ignore)
	must(t, err)
	if diff := cmp.Diff(tree(t, source), tree(t, target)); diff != "" {
		t.Errorf("the second copy differs (-want +got):\n%s", diff)
	}
}

func TestOneFile(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "a"), []byte("text"), 0o751))
	target := filepath.Join(dir, "b")
	must(t, os.WriteFile(target, []byte("old and longer"), 0o600))
	_, err := archive.Unpack(context.Background(), bytes.NewReader(pack(t, filepath.Join(dir, "a"), "a")), target, archive.DefaultLimits, ignore)
	must(t, err)
	data, _ := os.ReadFile(target)
	info, _ := os.Stat(target)
	if string(data) != "text" || info.Mode() != 0o751 {
		t.Errorf("got %q with mode %s", data, info.Mode())
	}
}

func TestPackLeavesOut(t *testing.T) {
	dir := t.TempDir()
	must(t, syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o4755))
	must(t, os.Chmod(filepath.Join(dir, "file"), 0o755|os.ModeSetuid))
	var left []string
	var b bytes.Buffer
	must(t, archive.Pack(context.Background(), &b, dir, "", func(name, _ string) { left = append(left, name) }))
	header, err := tar.NewReader(&b).Next()
	must(t, err)
	if header.Name != "file" || header.Mode != 0o755 || header.Uid != 0 || header.Uname != "" {
		t.Errorf("got %+v", header)
	}
	if diff := cmp.Diff([]string{"fifo"}, left); diff != "" {
		t.Error(diff)
	}
}

func TestPackEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	cause := errors.New("interrupted")
	cancel(cause)
	if err := archive.Pack(ctx, &bytes.Buffer{}, t.TempDir(), "x", ignore); !errors.Is(err, cause) {
		t.Errorf("got %v, want the cause", err)
	}
}

type entry = tar.Header

func file(name string) entry { return entry{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }
func soft(name, target string) entry {
	return entry{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}
}
func hard(name, target string) entry {
	return entry{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o777}
}
func folder(name string) entry { return entry{Typeflag: tar.TypeDir, Name: name, Mode: 0o755} }

// hostile are archives that try to write outside their target. Each must leave the
// world outside as it is; honest says that nothing in it is an error.
var hostile = map[string]struct {
	entries []entry
	honest  bool
}{
	"parent":                         {[]entry{file("../victim")}, false},
	"parent below top":               {[]entry{file("x/../../victim")}, false},
	"parent at the end":              {[]entry{folder("x/..")}, false},
	"parent of a folder":             {[]entry{folder("x/a"), file("x/a/../../victim")}, false},
	"absolute":                       {[]entry{file("{outside}/victim")}, false},
	"two slashes":                    {[]entry{file("//{outside}/victim")}, false},
	"absolute below top":             {[]entry{file("x//{outside}/victim2")}, true}, // is relative then
	"dot parent":                     {[]entry{file("./../victim")}, false},
	"only parent":                    {[]entry{folder("..")}, false},
	"link, then file through it":     {[]entry{soft("x/l", "{outside}"), file("x/l/victim")}, false},
	"relative link, file through it": {[]entry{soft("x/l", "../../outside"), file("x/l/victim")}, false},
	"link to link":                   {[]entry{soft("x/a", "{outside}"), soft("x/b", "a"), file("x/b/victim")}, false},
	"link to the parent":             {[]entry{soft("x/a", ".."), file("x/a/victim")}, false},
	"folder through a link":          {[]entry{soft("x/l", "{outside}"), folder("x/l/made")}, false},
	"link through a link":            {[]entry{soft("x/l", "{outside}"), soft("x/l/made", "z")}, false},
	"hard link through a link":       {[]entry{file("x/f"), soft("x/l", "{outside}"), hard("x/l/made", "x/f")}, false},
	"file over a link":               {[]entry{soft("x/l", "{outside}/victim"), file("x/l")}, true},
	"folder over a link":             {[]entry{soft("x/l", "{outside}"), folder("x/l"), file("x/l/victim")}, true},
	"hard link to the outside":       {[]entry{hard("x/h", "{outside}/victim"), file("x/h")}, false},
	"hard link to a parent":          {[]entry{hard("x/h", "x/../../outside/victim")}, false},
	"hard link to a link":            {[]entry{soft("x/l", "{outside}/victim"), hard("x/h", "x/l"), file("x/h")}, true},
	"hard link below a link":         {[]entry{soft("x/l", "{outside}"), hard("x/h", "x/l/victim")}, false},
	"mode through a link":            {[]entry{soft("x/l", "{outside}/victim"), hard("x/h", "x/l")}, true},
	"hard link to itself":            {[]entry{hard("x/h", "x/h")}, false},
	"hard link to the top":           {[]entry{folder("x"), hard("x/h", "x")}, false},
	"top is a link, file through it": {[]entry{soft("x", "{outside}"), file("x/victim")}, false},
	"top is a hard link":             {[]entry{hard("x", "{outside}/victim")}, false},
	"top is a file, file below it":   {[]entry{file("x"), file("x/victim")}, false},
	"top twice":                      {[]entry{folder("x"), file("x")}, false},
	"file replaced by a folder":      {[]entry{file("x/a"), folder("x/a"), file("x/a/b")}, true},
	"folder replaced by a link":      {[]entry{folder("x/a"), soft("x/a", "{outside}"), file("x/a/victim")}, false},
	"device":                         {[]entry{{Typeflag: tar.TypeBlock, Name: "x/d", Devmajor: 8}, {Typeflag: tar.TypeChar, Name: "x/c"}}, true},
	"FIFO":                           {[]entry{{Typeflag: tar.TypeFifo, Name: "x/f"}}, true},
	"NUL":                            {[]entry{{Typeflag: tar.TypeReg, Name: "x/a\x00/../../victim", Format: tar.FormatGNU}}, true},
	"long name":                      {[]entry{file("x/" + strings.Repeat("n", 5000))}, false},
	"deep name":                      {[]entry{file("x" + strings.Repeat("/d", 500))}, false},
	"empty link":                     {[]entry{soft("x/l", "")}, false},
	"setuid":                         {[]entry{{Typeflag: tar.TypeReg, Name: "x/s", Mode: 0o6755}}, true},
	"too much":                       {[]entry{{Typeflag: tar.TypeReg, Name: "x/huge", Mode: 0o644, Size: 1 << 40}}, false},
	"too many":                       {many(300), false},
}

func many(n int) (out []entry) {
	for i := range n {
		out = append(out, folder(fmt.Sprintf("x/%d", i)))
	}
	return out
}

func TestHostile(t *testing.T) {
	for name, tt := range hostile {
		t.Run(name, func(t *testing.T) {
			world := t.TempDir()
			outside := filepath.Join(world, "outside")
			must(t, os.Mkdir(outside, 0o755))
			must(t, os.WriteFile(filepath.Join(outside, "victim"), []byte("untouched"), 0o600))
			must(t, os.Mkdir(filepath.Join(world, "work"), 0o755))
			must(t, os.WriteFile(filepath.Join(world, "work/victim"), []byte("untouched"), 0o600))
			var b bytes.Buffer
			out := tar.NewWriter(&b)
			for _, h := range tt.entries {
				h.Name, h.Linkname = strings.ReplaceAll(h.Name, "{outside}", outside), strings.ReplaceAll(h.Linkname, "{outside}", outside)
				_ = out.WriteHeader(&h)
			}
			before := tree(t, outside)
			target := filepath.Join(world, "work/target")
			limits := archive.Limits{Entries: 100, Bytes: 1 << 20, Depth: 64}
			_, err := archive.Unpack(context.Background(), bytes.NewReader(b.Bytes()), target, limits, ignore)
			if got := err == nil; got != tt.honest && b.Len() > 0 {
				t.Errorf("got error %v, want an error: %t", err, !tt.honest)
			}
			if diff := cmp.Diff(before, tree(t, outside)); diff != "" {
				t.Errorf("something outside has changed:\n%s", diff)
			}
			names, _ := filepath.Glob(filepath.Join(world, "work/*"))
			for _, name := range names {
				if base := filepath.Base(name); base != "target" && base != "victim" {
					t.Errorf("%s was made", name)
				}
			}
			if data, _ := os.ReadFile(filepath.Join(world, "work/victim")); string(data) != "untouched" {
				t.Error("a file beside the target has changed")
			}
			if info, err := os.Lstat(filepath.Join(target, "s")); err == nil && info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
				t.Errorf("got mode %s", info.Mode())
			}
		})
	}
}

func FuzzUnpack(f *testing.F) {
	for _, tt := range hostile {
		var b bytes.Buffer
		out := tar.NewWriter(&b)
		for _, h := range tt.entries {
			_ = out.WriteHeader(&h)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		world := t.TempDir()
		_, _ = archive.Unpack(context.Background(), bytes.NewReader(data), filepath.Join(world, "target"), archive.Limits{Entries: 50, Bytes: 1 << 16, Depth: 8}, ignore)
		names, _ := filepath.Glob(filepath.Join(world, "*"))
		for _, name := range names {
			if filepath.Base(name) != "target" {
				t.Errorf("%s was made", name)
			}
		}
		_ = filepath.WalkDir(world, func(path string, _ fs.DirEntry, _ error) error { return os.Chmod(path, 0o700) })
	})
}
