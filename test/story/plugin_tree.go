// SPDX-License-Identifier: Apache-2.0

package story

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// TreeSize is how large a tree is.
type TreeSize struct{ Files, Bytes int }

// CopyTree copies a tree into b with "kubectl bottle cp", changes it there, and copies it out. It must come out as
// it is in the guest: contents, modes, times and links.
func (c *Cluster) CopyTree(t *testing.T, b *v1alpha1.Bottle, size TreeSize) {
	local := filepath.Join(t.TempDir(), "src")
	makeRandomTree(t, local, size)
	run := func(args ...string) {
		t.Helper()
		if got := c.Bottle(t, nil, append([]string{"cp", "-n", b.Namespace}, args...)...); got.Code != 0 {
			t.Fatalf("cp %q: got %+v", args, got)
		}
	}
	run(local, b.Name+":/root/work")
	// The same changes, here and in the guest.
	const change = `set -e; cd "$1"; rm d0/f0; mkdir new; echo made >new/file; chmod 750 new/file; ln -s ../d1 new/link; ln new/file new/hard; mv d1/f1 new/moved
chmod 700 d2; touch -d '2001-02-03 04:05:06' d3/f3 d3 new/file new`
	c.Guest(t, b, "sh", "-c", change, "sh", "/root/work")
	back := filepath.Join(t.TempDir(), "back")
	run(b.Name+":/root/work", back)
	want := describeTree(t, local)
	got := describeTree(t, back)
	for _, path := range []string{"d0/f0", "d1/f1"} {
		if _, ok := got[path]; ok {
			t.Errorf("%s came back, although the workload removed it", path)
		}
		delete(want, path)
	}
	for path, line := range map[string]string{
		"new": "drwxr-xr-x 981173106", "new/file": "-rwxr-x--- 981173106 made 2", "new/hard": "-rwxr-x--- 981173106 made 2", "new/link": "-> ../d1",
		"d2": "drwx------", "d3": "drwxr-xr-x 981173106",
	} {
		if !strings.HasPrefix(got[path], line) {
			t.Errorf("%s: got %q, want %q", path, got[path], line)
		}
	}
	for _, path := range []string{".", "d0", "d1", "d2", "d3", "d3/f3", "new", "new/file", "new/hard", "new/link", "new/moved"} { // the workload has changed them
		delete(want, path)
		delete(got, path)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the tree came out otherwise (-want +got):\n%.3000s", diff)
	}
}

// makeRandomTree makes files of random contents in folders, with links and times.
func makeRandomTree(t *testing.T, root string, size TreeSize) {
	random := rand.NewChaCha8([32]byte{7})
	data := make([]byte, size.Bytes/size.Files)
	old := time.Date(2020, 1, 2, 3, 4, 5, 678901234, time.UTC)
	const folders = 50
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range folders {
		must(os.MkdirAll(filepath.Join(root, fmt.Sprint("d", i)), 0o755))
	}
	for i := range size.Files {
		name := filepath.Join(root, fmt.Sprint("d", i%folders), fmt.Sprint("f", i))
		_, _ = random.Read(data)
		must(os.WriteFile(name, data, 0o600))
		must(os.Chmod(name, []fs.FileMode{0o644, 0o755, 0o600, 0o444}[i%4]))
		must(os.Chtimes(name, old, old.Add(time.Duration(i)*time.Second)))
	}
	must(os.Symlink("../d9/f9", filepath.Join(root, "d8/soft")))
	must(os.Symlink("/etc/hostname", filepath.Join(root, "d8/absolute")))
	must(os.Link(filepath.Join(root, "d9/f9"), filepath.Join(root, "d8/hard")))
	must(os.Chtimes(filepath.Join(root, "d8"), old, old))
}

// describeTree returns a line for everything below a folder.
func describeTree(t *testing.T, root string) map[string]string {
	out := map[string]string{}
	names := map[string][]string{} // of the same file
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			out[name] = "-> " + target
			return err
		case info.IsDir():
			out[name] = fmt.Sprintf("%s %d.%09d", info.Mode(), info.ModTime().Unix(), info.ModTime().Nanosecond())
			return nil
		}
		data, err := os.ReadFile(path)
		sum := fmt.Sprintf("%x", sha256.Sum256(data))
		if len(data) < 100 {
			sum = strings.TrimSpace(string(data))
		}
		out[name] = fmt.Sprintf("%s %d", info.Mode(), info.ModTime().Unix())
		if ns := info.ModTime().Nanosecond(); ns != 0 {
			out[name] += fmt.Sprintf(".%09d", ns)
		}
		out[name] += " " + sum
		id := fmt.Sprint(inode(info))
		names[id] = append(names[id], name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, same := range names {
		sort.Strings(same)
		for _, name := range same {
			out[name] += fmt.Sprint(" ", len(same))
		}
	}
	return out
}

func inode(info fs.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Ino }
