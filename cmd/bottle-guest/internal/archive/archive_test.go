// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/test/require"
)

// tree describes the entries below a folder: kind, mode, time, content.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	inodes := map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		text := fmt.Sprintf("%s %d", info.Mode(), info.ModTime().UnixNano())
		switch {
		case info.Mode().IsRegular():
			st := info.Sys().(*syscall.Stat_t)
			if first, ok := inodes[st.Ino]; ok && st.Nlink > 1 {
				text += " same as " + first
				break
			}
			inodes[st.Ino] = name
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %d %q", len(content), content[:min(len(content), 40)])
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " to " + target
		}
		all[name] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(text), 0o600))
	must(t, os.Chmod(path, mode))
}

// sample makes a tree with one of everything.
func sample(t *testing.T, root string) {
	t.Helper()
	long := strings.Repeat("long-", 40)
	write(t, root+"/plain", "content", 0o644)
	write(t, root+"/script", "#!/bin/sh\n", 0o755)
	write(t, root+"/secret", "s", 0o400)
	write(t, root+"/empty", "", 0o600)
	write(t, root+"/big", strings.Repeat("0123456789", 200_000), 0o640)
	write(t, root+"/d/e/f/deep", "deep", 0o604)
	write(t, root+"/"+long+"/"+long+"/"+long, "a long name", 0o644)
	write(t, root+"/ünïcode \t\n\"name", "x", 0o644)
	write(t, root+"/not\xffutf8", "x", 0o644)
	write(t, root+"/sticky/x", "x", 0o644)
	must(t, os.Chmod(root+"/sticky", 0o777|os.ModeSticky))
	must(t, os.MkdirAll(root+"/none", 0o700))
	must(t, os.Link(root+"/plain", root+"/d/hard"))
	must(t, os.Symlink("plain", root+"/soft"))
	must(t, os.Symlink("/etc/passwd", root+"/absolute"))
	must(t, os.Symlink("../../../..", root+"/d/up"))
	must(t, os.Symlink("nowhere", root+"/dangling"))
	must(t, os.Chmod(root+"/d/e", 0o500))
	// Times of the past, with nanoseconds, folders last.
	n := int64(0)
	for _, path := range []string{"plain", "script", "soft", "dangling", "d/e/f/deep", "d/e/f", "d/e", "d", "none", "sticky", ""} {
		n++
		spec := unix.Timespec{Sec: 1_500_000_000 + n, Nsec: 123_456_789 - n}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(root, path), []unix.Timespec{spec, spec}, unix.AT_SYMLINK_NOFOLLOW))
	}
}

func pack(t *testing.T, paths ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	must(t, Out(paths, &b, func(text string) { t.Logf("warning: %s", text) }))
	return b.Bytes()
}

func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	sample(t, dir+"/tree")
	data := pack(t, dir+"/tree")
	for name, dest := range map[string]string{
		"into a folder":          dir + "/in/",
		"under another name":     dir + "/new/name",
		"into one that is there": dir,
	} {
		t.Run(name, func(t *testing.T) {
			got := dest
			switch name {
			case "into a folder":
				got = dest + "tree"
			case "into one that is there":
				dest = dir + "/there"
				must(t, os.Mkdir(dest, 0o755))
				got = dest + "/tree"
			}
			must(t, In(dest, bytes.NewReader(data)))
			if diff := cmp.Diff(tree(t, dir+"/tree"), tree(t, got)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			// Once more, over what is there.
			must(t, os.Chmod(got+"/d/e", 0o700))
			must(t, os.WriteFile(got+"/plain", []byte("changed"), 0o600))
			if strings.HasPrefix(name, "under") {
				return // it is a folder now, so the archive would go into it
			}
			must(t, In(dest, bytes.NewReader(data)))
			if diff := cmp.Diff(tree(t, dir+"/tree"), tree(t, got)); diff != "" {
				t.Errorf("again: (-want +got)\n%s", diff)
			}
		})
	}
}

func TestOneFile(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/file", "text", 0o751)
	write(t, dir+"/old", "old", 0o600)
	data := pack(t, dir+"/file")
	for _, dest := range []string{dir + "/copy", dir + "/a/b/copy", dir + "/old", dir + "/x/"} {
		must(t, In(dest, bytes.NewReader(data)))
		if strings.HasSuffix(dest, "/") {
			dest += "file"
		}
		text, err := os.ReadFile(dest)
		info, serr := os.Stat(dest)
		if err != nil || serr != nil || string(text) != "text" || info.Mode() != 0o751 {
			t.Errorf("%s: got %q, %v, %v, want the file", dest, text, info, err)
		}
	}
}

func names(t *testing.T, data []byte) []string {
	t.Helper()
	var all []string
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		all = append(all, fmt.Sprintf("%c %s", h.Typeflag, h.Name))
	}
}

func TestNamesInTheArchive(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a/file", "x", 0o644)
	must(t, os.Symlink("a", dir+"/link"))
	t.Chdir(dir)
	for path, want := range map[string][]string{
		dir + "/a":      {"5 a/", "0 a/file"},
		"a":             {"5 a/", "0 a/file"},
		"a/":            {"5 a/", "0 a/file"},
		"./a/.":         {"5 a/", "0 a/file"},
		"a/file":        {"0 file"},
		"link":          {"2 link"},
		"link/":         {"5 link/", "0 link/file"},
		dir + "/a/../a": {"5 a/", "0 a/file"},
	} {
		if diff := cmp.Diff(want, names(t, pack(t, path))); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", path, diff)
		}
	}
	t.Chdir(dir + "/a")
	for _, path := range []string{".", "./"} {
		if diff := cmp.Diff([]string{"5 ./", "0 ./file"}, names(t, pack(t, path))); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", path, diff)
		}
	}
}

// TestSpecialFilesAreLeftOut: with a warning, and without waiting for them.
func TestSpecialFilesAreLeftOut(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/t/file", "x", 0o644)
	must(t, unix.Mkfifo(dir+"/t/pipe", 0o644))
	var b bytes.Buffer
	var warned []string
	must(t, Out([]string{dir + "/t"}, &b, func(text string) { warned = append(warned, text) }))
	if diff := cmp.Diff([]string{"5 t/", "0 t/file"}, names(t, b.Bytes())); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if len(warned) != 1 || !strings.Contains(warned[0], "pipe") {
		t.Errorf("got warnings %q, want one about the pipe", warned)
	}
	b.Reset()
	must(t, Out([]string{"/proc"}, &b, func(string) {}))
	if got := names(t, b.Bytes()); got != nil {
		t.Errorf("/proc: got %d entries, want none", len(got))
	}
}

// TestUnreadable: the rest is in the archive, and Out returns an error.
func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/file", "x", 0o644)
	var b bytes.Buffer
	var warned []string
	err := Out([]string{dir + "/none", dir + "/file", dir + "/file/x"}, &b, func(text string) { warned = append(warned, text) })
	if err == nil || len(warned) != 2 {
		t.Errorf("got %v, %q, want an error and two warnings", err, warned)
	}
	if diff := cmp.Diff([]string{"0 file"}, names(t, b.Bytes())); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestFileThatChanges changes the length of a file while it is read: the archive is
// valid all the same.
func TestFileThatChanges(t *testing.T) {
	for size, wantError := range map[int64]bool{10: true, 2 << 20: false} {
		dir := t.TempDir()
		path := dir + "/file"
		write(t, path, strings.Repeat("x", 1<<20), 0o644)
		reader, writer := io.Pipe()
		done := make(chan error, 1)
		go func() {
			err := Out([]string{path}, writer, func(string) {})
			writer.CloseWithError(err)
			done <- err
		}()
		r := tar.NewReader(reader)
		h, err := r.Next()
		must(t, err)
		must(t, os.Truncate(path, size))
		content, err := io.ReadAll(r)
		if err != nil || int64(len(content)) != h.Size {
			t.Errorf("%d: got %d bytes, %v, want as many as announced", size, len(content), err)
		}
		_, _ = io.Copy(io.Discard, reader)
		if err := <-done; (err != nil) != wantError {
			t.Errorf("%d: got %v, want an error: %v", size, err, wantError)
		}
	}
}

// entry is one entry of an archive that a test makes.
type entry struct {
	kind         byte
	name, target string
	content      string
}

func archiveOf(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		must(t, w.WriteHeader(&tar.Header{Typeflag: e.kind, Name: e.name, Linkname: e.target, Mode: 0o644, Size: int64(len(e.content)), ModTime: time.Unix(1e9, 0)}))
		_, err := io.WriteString(w, e.content)
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

// hostile are archives that must be refused. In the folder they find a link "out" to
// the folder outside, a link "file" to a file there, and a folder "dir". /OUTSIDE is
// replaced by the path of the folder outside.
var hostile = map[string][]entry{
	"absolute":                      {{tar.TypeReg, "/OUTSIDE/escape", "", "x"}},
	"absolute, twice":               {{tar.TypeReg, "//OUTSIDE/escape", "", "x"}},
	"parent":                        {{tar.TypeReg, "../escape", "", "x"}},
	"parent inside":                 {{tar.TypeReg, "dir/../../escape", "", "x"}},
	"parent that stays inside":      {{tar.TypeReg, "dir/../escape", "", "x"}},
	"parent at the end":             {{tar.TypeDir, "dir/..", "", ""}},
	"only a parent":                 {{tar.TypeDir, "..", "", ""}},
	"through a link that is there":  {{tar.TypeReg, "out/escape", "", "x"}},
	"folder through a link":         {{tar.TypeDir, "out/escape", "", ""}},
	"folder in the place of a link": {{tar.TypeDir, "out", "", ""}},
	"through a link to a file":      {{tar.TypeReg, "file/escape", "", "x"}},
	"through its own link":          {{tar.TypeSymlink, "l", "../outside", ""}, {tar.TypeReg, "l/escape", "", "x"}},
	"through its own absolute link": {{tar.TypeSymlink, "l", "/OUTSIDE", ""}, {tar.TypeReg, "l/escape", "", "x"}},
	"through a link to the inside":  {{tar.TypeSymlink, "l", "dir", ""}, {tar.TypeReg, "l/escape", "", "x"}},
	"through two links":             {{tar.TypeSymlink, "a", "..", ""}, {tar.TypeSymlink, "b", "a/outside", ""}, {tar.TypeReg, "b/escape", "", "x"}},
	"link below a link":             {{tar.TypeSymlink, "l", "../outside", ""}, {tar.TypeSymlink, "l/escape", "x", ""}},
	"hard link to the outside":      {{tar.TypeLink, "l", "../outside/victim", ""}},
	"hard link, absolute":           {{tar.TypeLink, "l", "/etc/passwd", ""}},
	"hard link through a link":      {{tar.TypeLink, "l", "out/victim", ""}},
	"hard link to a link":           {{tar.TypeLink, "l", "file", ""}},
	"hard link to its own link":     {{tar.TypeSymlink, "s", "../outside/victim", ""}, {tar.TypeLink, "l", "s", ""}},
	"hard link to a folder":         {{tar.TypeLink, "l", "dir", ""}},
	"hard link to the top":          {{tar.TypeLink, "l", "./", ""}},
	"hard link to nothing":          {{tar.TypeLink, "l", "none", ""}},
	"character device":              {{tar.TypeChar, "null", "", ""}},
	"block device":                  {{tar.TypeBlock, "disk", "", ""}},
	"pipe":                          {{tar.TypeFifo, "pipe", "", ""}},
	"unknown kind":                  {{'9', "x", "", ""}},
	"file in the place of a folder": {{tar.TypeReg, "dir", "", "x"}},
	"link in the place of a folder": {{tar.TypeSymlink, "dir", "../outside", ""}},
	"folder in the place of a file": {{tar.TypeReg, "f", "", "x"}, {tar.TypeDir, "f", "", ""}},
	"below a file":                  {{tar.TypeReg, "f", "", "x"}, {tar.TypeReg, "f/g", "", "x"}},
	"a name that is too long":       {{tar.TypeReg, strings.Repeat("x", 300), "", "x"}},
	"too many folders":              {{tar.TypeReg, strings.Repeat("d/", maxDepth) + "x", "", "x"}},
	"a link to nowhere in the way":  {{tar.TypeSymlink, "l", "nowhere", ""}, {tar.TypeReg, "l/x", "", "x"}},
}

// arena makes a folder to unpack into, and one outside with a file.
func arena(t *testing.T) (inside, outside string) {
	t.Helper()
	dir := t.TempDir()
	inside, outside = dir+"/inside", dir+"/outside"
	write(t, outside+"/victim", "untouched", 0o644)
	write(t, inside+"/dir/x", "x", 0o644)
	must(t, os.Symlink("../outside", inside+"/out"))
	must(t, os.Symlink("../outside/victim", inside+"/file"))
	return inside, outside
}

func TestHostileArchives(t *testing.T) {
	for name, entries := range hostile {
		t.Run(name, func(t *testing.T) {
			inside, outside := arena(t)
			before := tree(t, outside)
			absolute := strings.NewReplacer("/OUTSIDE", outside)
			for i := range entries {
				entries[i].name, entries[i].target = absolute.Replace(entries[i].name), absolute.Replace(entries[i].target)
			}
			for _, dest := range []string{inside, inside + "/", inside + "/."} {
				err := In(dest, bytes.NewReader(archiveOf(t, entries...)))
				if err == nil {
					t.Fatal("got nil, want a refusal")
				}
				if text := err.Error(); len(text) > 600 {
					t.Errorf("got an error of %d bytes", len(text))
				}
			}
			if diff := cmp.Diff(before, tree(t, outside)); diff != "" {
				t.Errorf("outside changed: (-want +got)\n%s", diff)
			}
			for _, path := range []string{inside + "/../escape", "/OUTSIDE/escape"} {
				if _, err := os.Lstat(path); err == nil {
					t.Errorf("%s was made", path)
				}
			}
		})
	}
}

// TestLinksAreReplaced: a file or a link takes the place of a link and does not go
// through it.
func TestLinksAreReplaced(t *testing.T) {
	inside, outside := arena(t)
	before := tree(t, outside)
	must(t, In(inside, bytes.NewReader(archiveOf(t,
		entry{tar.TypeReg, "file", "", "new"}, entry{tar.TypeSymlink, "out", "elsewhere", ""}, entry{tar.TypeReg, "f", "", "1"}, entry{tar.TypeLink, "g", "f", ""}, entry{tar.TypeLink, "g", "f", ""}, entry{tar.TypeLink, "f", "f", ""}))))
	if text, err := os.ReadFile(inside + "/f"); err != nil || string(text) != "1" {
		t.Errorf("got %q, %v, want a file that is linked to itself to stay", text, err)
	}
	if text, err := os.ReadFile(inside + "/file"); err != nil || string(text) != "new" {
		t.Errorf("got %q, %v, want the new file", text, err)
	}
	if target, err := os.Readlink(inside + "/out"); err != nil || target != "elsewhere" {
		t.Errorf("got %q, %v, want the new link", target, err)
	}
	if diff := cmp.Diff(before, tree(t, outside)); diff != "" {
		t.Errorf("outside changed: (-want +got)\n%s", diff)
	}
}

// TestBitsThatLendRights: the owner is not kept, so neither are these bits.
func TestBitsThatLendRights(t *testing.T) {
	dir := t.TempDir()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "x", Mode: 0o6755}))
	must(t, w.Close())
	must(t, In(dir, &b))
	if info, err := os.Stat(dir + "/x"); err != nil || info.Mode() != 0o755 {
		t.Errorf("got %v, %v, want 0755", info.Mode(), err)
	}
}

// TestArchiveOfTheFolderItself: archives of "." have an entry for the folder itself.
func TestArchiveOfTheFolderItself(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/from/a", "x", 0o644)
	must(t, os.Mkdir(dir+"/to", 0o711))
	t.Chdir(dir + "/from")
	must(t, In(dir+"/to", bytes.NewReader(pack(t, "."))))
	if info, err := os.Stat(dir + "/to"); err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("got %v, %v, want the mode to stay", info.Mode(), err)
	}
	if _, err := os.Stat(dir + "/to/a"); err != nil {
		t.Error(err)
	}
}

func TestBrokenArchives(t *testing.T) {
	dir := t.TempDir()
	good := archiveOf(t, entry{tar.TypeReg, "f", "", strings.Repeat("x", 5000)})
	for name, data := range map[string][]byte{
		"not an archive":   bytes.Repeat([]byte("x"), 4096),
		"cut in the file":  good[:2000],
		"cut in the name":  good[:100],
		"something behind": append(append([]byte{}, good...), bytes.Repeat([]byte("x"), maxTrailer)...),
	} {
		if err := In(dir, bytes.NewReader(data)); err == nil {
			t.Errorf("%s: got nil, want an error", name)
		}
	}
	for name, data := range map[string][]byte{"nothing": nil, "padding": append(append([]byte{}, good...), make([]byte, 10240)...)} {
		if err := In(dir, bytes.NewReader(data)); err != nil {
			t.Errorf("%s: got %v, want nil", name, err)
		}
	}
	if err := In("", bytes.NewReader(good)); err == nil {
		t.Error("an empty path: got nil, want an error")
	}
	if err := In(dir+"/f/x/", bytes.NewReader(good)); err == nil {
		t.Error("a path through a file: got nil, want an error")
	}
}

// TestOtherUser: a user without rights gets errors and not half a result.
func TestOtherUser(t *testing.T) {
	require.Root(t)
	dir := t.TempDir()
	write(t, dir+"/t/secret", "s", 0o600)
	write(t, dir+"/t/open", "o", 0o644)
	for d := dir; d != "/"; d = filepath.Dir(d) {
		if info, err := os.Stat(d); err == nil && info.Mode()&0o001 == 0 {
			must(t, os.Chmod(d, info.Mode()|0o011))
		}
	}
	own := dir + "/own"
	must(t, os.Mkdir(own, 0o700))
	must(t, os.Chown(own, 65534, 65534))
	must(t, asUser(65534, func() error {
		var b bytes.Buffer
		err := Out([]string{dir + "/t"}, &b, func(string) {})
		if got := names(t, b.Bytes()); err == nil || len(got) != 2 {
			return fmt.Errorf("out: got %v, %q, want an error and the file that can be read", err, got)
		}
		if err := In(dir+"/t", &b); err == nil {
			return errors.New("in: got nil, want an error")
		}
		// Folders that their owner may not write to, inside each other.
		b.Reset()
		w := tar.NewWriter(&b)
		for _, name := range []string{"a/", "a/b/", "a/b/c/"} {
			must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0}))
		}
		must(t, w.Close())
		if err := In(own+"/", &b); err != nil {
			return fmt.Errorf("in: got %w, want folders without rights", err)
		}
		return nil
	}))
}

// asUser calls f with the file-system rights of another user.
func asUser(uid int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		// The thread ends with the goroutine, because it stays locked.
		runtime.LockOSThread()
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETFSUID, uintptr(uid), 0, 0); errno != 0 {
			done <- errno
			return
		}
		done <- f()
	}()
	return <-done
}

func FuzzIn(f *testing.F) {
	for _, entries := range hostile {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, e := range entries {
			if w.WriteHeader(&tar.Header{Typeflag: e.kind, Name: e.name, Linkname: e.target, Mode: 0o644, Size: int64(len(e.content))}) == nil {
				_, _ = io.WriteString(w, e.content)
			}
		}
		_ = w.Close()
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		inside, outside := arena(t)
		before := tree(t, outside)
		_ = In(inside, bytes.NewReader(data))
		if diff := cmp.Diff(before, tree(t, outside)); diff != "" {
			t.Errorf("outside changed: (-want +got)\n%s", diff)
		}
		if entries, err := os.ReadDir(filepath.Dir(inside)); err != nil || len(entries) != 2 {
			t.Errorf("got %v, %v beside the folder, want nothing new", entries, err)
		}
	})
}
