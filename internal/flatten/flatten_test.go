// SPDX-License-Identifier: Apache-2.0

package flatten

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/test/require"
)

// flattened returns the tree that the layers give, and checks that Flatten
// leaves nothing behind.
func flattened(t *testing.T, archives ...[]byte) (map[string]node, []byte) {
	t.Helper()
	require.Root(t)
	dir := t.TempDir()
	var out bytes.Buffer
	sum, err := Flatten(t.Context(), dir, layersOf(archives...), &out, testLimits)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%x", sha256.Sum256(out.Bytes())); sum != want {
		t.Errorf("got the digest %s, want %s", sum, want)
	}
	wantEmpty(t, dir)
	return treeOf(t, out.Bytes()), out.Bytes()
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("got %v, %v left, want nothing", left, err)
	}
}

func kinds(tree map[string]node) map[string]byte {
	all := map[string]byte{}
	for name, n := range tree {
		all[name] = n.Type
	}
	return all
}

// The same layers always give the same bytes, also where an archive does not
// say which time a folder has.
func TestSameBytes(t *testing.T) {
	layers := [][]byte{
		tarOf(t, dir("d"), file("d/b", "1"), file("d/a", "1"), hardLink("z", "d/b"), file("new/deep/f", "1")),
		tarOf(t, file("d/c", "2").at(time.Unix(1, 5)).format(tar.FormatPAX), file("d/.wh.a", ""), file("new/g", "2").xattr("user.b", "1").xattr("user.a", "2")),
		tarOf(t, file("new/deep/h", "3"), file("d/.wh.none", "")),
	}
	tree, first := flattened(t, layers...)
	_, second := flattened(t, layers...)
	if !bytes.Equal(first, second) {
		t.Errorf("got different archives (-first +second):\n%s", cmp.Diff(tree, treeOf(t, second)))
	}
	for name, want := range map[string]time.Time{"d/": then, "new/": time.Unix(0, 0), "new/deep/": time.Unix(0, 0)} {
		if got := tree[name].Time; !got.Equal(want) {
			t.Errorf("time of %s: got %v, want %v", name, got, want.UTC())
		}
	}
	// An archive of one layer is what a flattened one gives again.
	if _, again := flattened(t, first); !bytes.Equal(again, first) {
		t.Error("flattened again: got other bytes, want the same")
	}
}

func TestNoLayers(t *testing.T) {
	if tree, _ := flattened(t); len(tree) > 0 {
		t.Errorf("no layer: got %v, want an empty tree", tree)
	}
	if tree, _ := flattened(t, nil); len(tree) > 0 {
		t.Errorf("an empty file: got %v, want an empty tree", tree)
	}
}

func TestMostLayers(t *testing.T) {
	var layers [][]byte
	for i := range MaxLayers {
		layers = append(layers, tarOf(t, file("f", fmt.Sprint(i)), file(fmt.Sprint("only-", i), "")))
	}
	tree, _ := flattened(t, layers...)
	if want := contentOf(t, strings.NewReader(fmt.Sprint(MaxLayers-1))); len(tree) != MaxLayers+1 || tree["f"].Content != want {
		t.Errorf("got %d files and %s, want %d and the content of the last layer", len(tree), tree["f"].Content, MaxLayers+1)
	}
	_, err := Flatten(t.Context(), t.TempDir(), layersOf(append(layers, layers[0])...), io.Discard, testLimits)
	if !errors.Is(err, ErrTooManyLayers) {
		t.Errorf("one more: got %v, want ErrTooManyLayers", err)
	}
}

// Docker refuses these layers. Flatten takes them, because their meaning is
// clear.
func TestWhatDockerRefuses(t *testing.T) {
	tree, _ := flattened(t,
		tarOf(t, file("f", "1"), file("f", "2").mode(0o600), dir("d"), file("d/a", "1"), dir("d").mode(0o700)),
		tarOf(t, file("new", "1"), file(".wh.new", ""), dir("e"), file("e/a", "1"), file(".wh.e", "")))
	want := map[string]byte{"f": '0', "d/": '5', "d/a": '0', "new": '0', "e/": '5', "e/a": '0'}
	if diff := cmp.Diff(want, kinds(tree)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if tree["f"].Mode != 0o600 || tree["d/"].Mode != 0o700 {
		t.Errorf("got %+v and %+v, want what the last entries say", tree["f"], tree["d/"])
	}
}

// Whatever a layer names is inside of the image.
func TestStaysInside(t *testing.T) {
	require.Root(t)
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("of the node"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := folderTree(t, outside)
	up := strings.Repeat("../", 30)
	for name, layers := range map[string][][]byte{
		"absolute name":           {tarOf(t, file(secret, "evil"))},
		"upward name":             {tarOf(t, file(up+secret, "evil"))},
		"link to the folder":      {tarOf(t, symlink("d", outside), file("d/secret", "evil"))},
		"upward link":             {tarOf(t, symlink("d", up+outside), file("d/secret", "evil"))},
		"link of a lower layer":   {tarOf(t, symlink("d", outside)), tarOf(t, file("d/secret", "evil"), file("d/.wh.secret", ""))},
		"chain of links":          {tarOf(t, symlink("a", "/"), symlink("b", "a/"+up), symlink("c", "b"+outside), file("c/secret", "evil"))},
		"whiteout of an upper":    {tarOf(t, file(up+outside+"/.wh.secret", ""))},
		"whiteout through a link": {tarOf(t, symlink("d", outside), file("d/.wh.secret", ""), file("d/.wh..wh..opq", ""))},
		"replaced folder":         {tarOf(t, dir("d"), symlink("d", outside), file("d/secret", "evil"), dir("d/sub"))},
		"own proc":                {tarOf(t, symlink("d", "/proc/self/root"), file("d"+secret, "evil"))},
	} {
		var out bytes.Buffer
		dir := t.TempDir()
		_, err := Flatten(t.Context(), dir, layersOf(layers...), &out, testLimits)
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v, want nil or ErrInvalid", name, err)
		}
		if strings.Contains(out.String(), "of the node") {
			t.Errorf("%s: the archive holds a file of the node", name)
		}
		if diff := cmp.Diff(before, folderTree(t, outside)); diff != "" {
			t.Errorf("%s: files of the node (-before +after)\n%s", name, diff)
		}
		wantEmpty(t, dir)
	}
	for name, layer := range map[string][]byte{
		"hard link to the node's file": tarOf(t, hardLink("l", secret)),
		"upward hard link":             tarOf(t, hardLink("l", up+secret)),
		"hard link through a link":     tarOf(t, symlink("d", outside), hardLink("l", "d/secret")),
	} {
		if _, err := Flatten(t.Context(), t.TempDir(), layersOf(layer), io.Discard, testLimits); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", name, err)
		}
	}
}

// An error quotes nothing of the image.
func TestInvalidLayers(t *testing.T) {
	require.Root(t)
	whole := tarOf(t, file("quoted", strings.Repeat("x", 4096)))
	tooLong := "quoted/" + strings.Repeat("d/", 3000)
	for name, layer := range map[string][]byte{
		"text":                       []byte(strings.Repeat("quoted", 1000)),
		"truncated":                  whole[:2048],
		"truncated header":           whole[:100],
		"unknown kind":               tarOf(t, special('Z', "quoted", 0, 0)),
		"hard link to nothing":       tarOf(t, hardLink("quoted", "no")),
		"hard link to a folder":      tarOf(t, dir("d"), hardLink("quoted", "d")),
		"hard link to a lower layer": tarOf(t, hardLink("quoted", "a")),
		"name is too long":           tarOf(t, file(tooLong+"f", "")),
		"part is too long":           tarOf(t, file("quoted"+strings.Repeat("x", 300), "")),
		"below a file":               tarOf(t, file("quoted", ""), file("quoted/f", "")),
		"loop":                       tarOf(t, symlink("quoted", "quoted"), file("quoted/f", "")),
		"whiteout without name":      tarOf(t, file(".wh.", "quoted")),
		"whiteout of the parent":     tarOf(t, file("quoted/.wh...", "")),
		"invalid capability":         tarOf(t, file("f", "").xattr("security.capability", "quoted")),
		"unknown attributes":         tarOf(t, file("f", "").xattr("system.quoted", "1").xattr("user.x", strings.Repeat("quoted", 20000))),
	} {
		dir := t.TempDir()
		_, err := Flatten(t.Context(), dir, layersOf(tarOf(t, file("a", "")), layer), io.Discard, testLimits)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "layer 2 ") || strings.Contains(err.Error(), "quoted") {
			t.Errorf("%s: got %v, want ErrInvalid of layer 2 without a name", name, err)
		}
		wantEmpty(t, dir)
	}
}

// Attributes with which overlayfs marks its own folders do not reach it.
func TestOverlayAttributes(t *testing.T) {
	tree, _ := flattened(t,
		tarOf(t, dir("d"), file("d/a", "1"), dir("e"), file("e/b", "1")),
		tarOf(t, dir("d").xattr("trusted.overlay.opaque", "y"), dir("e").xattr("trusted.overlay.redirect", "/d"), file("f", "").xattr("trusted.overlay.metacopy", "")))
	want := map[string]byte{"d/": '5', "d/a": '0', "e/": '5', "e/b": '0', "f": '0'}
	if diff := cmp.Diff(want, kinds(tree)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestLimits(t *testing.T) {
	require.Root(t)
	full := errors.New("full")
	small := Limits{MaxBytes: 1 << 20, MaxEntries: 10}
	zeros := string(make([]byte, 400<<10))
	var many []entry
	for i := range 6 {
		many = append(many, file(fmt.Sprint("f", i), ""))
	}
	huge := tarOf(t, file("f", ""))
	if i := bytes.Index(huge, []byte("00000000000\x00")); i < 0 {
		t.Fatal("the header has no size")
	} else {
		copy(huge[124:], "77777777777\x00") // 8 GiB
		setChecksum(huge)
	}
	for name, c := range map[string]struct {
		layers [][]byte
		limits Limits
		want   error
	}{
		"fits":                   {[][]byte{tarOf(t, many...)}, small, nil},
		"bytes of several":       {[][]byte{tarOf(t, file("a", zeros)), tarOf(t, file("a", zeros)), tarOf(t, file("a", zeros))}, small, ErrTooLarge},
		"one claims too much":    {[][]byte{huge}, small, ErrTooLarge},
		"sparse":                 {[][]byte{sparseTar(t)}, small, ErrTooLarge},
		"zeros behind the layer": {[][]byte{append(tarOf(t, file("a", "")), make([]byte, 2<<20)...)}, small, ErrTooLarge},
		"entries of several":     {[][]byte{tarOf(t, many...), tarOf(t, many...)}, small, ErrTooManyEntries},
		"headers":                {[][]byte{tarOf(t, many...)}, Limits{MaxBytes: 2048, MaxEntries: 10}, ErrTooLarge},
		"room": {[][]byte{tarOf(t, file("a", strings.Repeat(zeros, 30)))}, Limits{MaxBytes: 64 << 20, MaxEntries: 10,
			Room: func(int64) error { return fmt.Errorf("disk: %w", full) }}, full},
	} {
		dir := t.TempDir()
		if _, err := Flatten(t.Context(), dir, layersOf(c.layers...), io.Discard, c.limits); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		wantEmpty(t, dir)
	}
}

func setChecksum(header []byte) {
	copy(header[148:156], "        ")
	sum := 0
	for _, b := range header[:512] {
		sum += int(b)
	}
	copy(header[148:], fmt.Sprintf("%06o\x00 ", sum))
}

// A layer's reader verifies the layer at its end, so its error counts more than
// what is wrong with the archive.
func TestReaderErrors(t *testing.T) {
	require.Root(t)
	broken := errors.New("does not match its digest")
	for name, content := range map[string][]byte{
		"valid": tarOf(t, file("a", "1")), "invalid": []byte(strings.Repeat("no tar ", 1000)), "invalid entry": tarOf(t, hardLink("a", "b"), file("c", "")),
	} {
		closed := false
		layer := Layer{Open: func(context.Context) (io.ReadCloser, error) {
			return closer{io.MultiReader(bytes.NewReader(content), failing{broken}), &closed}, nil
		}}
		dir := t.TempDir()
		if _, err := Flatten(t.Context(), dir, []Layer{layer}, io.Discard, testLimits); !errors.Is(err, broken) {
			t.Errorf("%s: got %v, want the reader's error", name, err)
		}
		if !closed {
			t.Errorf("%s: the reader was not closed", name)
		}
		wantEmpty(t, dir)
	}
	unopened := Layer{Open: func(context.Context) (io.ReadCloser, error) { return nil, broken }}
	if _, err := Flatten(t.Context(), t.TempDir(), []Layer{unopened}, io.Discard, testLimits); !errors.Is(err, broken) {
		t.Errorf("open: got %v, want its error", err)
	}
	layers := layersOf(tarOf(t, file("a", strings.Repeat("x", 3<<20))))
	if _, err := Flatten(t.Context(), t.TempDir(), layers, failing{broken}, testLimits); !errors.Is(err, broken) {
		t.Errorf("write: got %v, want the writer's error", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error)  { return 0, f.err }
func (f failing) Write([]byte) (int, error) { return 0, f.err }

type closer struct {
	io.Reader
	closed *bool
}

func (c closer) Close() error { *c.closed = true; return nil }

func TestCancel(t *testing.T) {
	require.Root(t)
	ctx, cancel := context.WithCancel(t.Context())
	layer := Layer{Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(bytes.NewReader(tarOf(t, file("a", "1"))[:1024]), cancelling{cancel})), nil
	}}
	dir := t.TempDir()
	if _, err := Flatten(ctx, dir, []Layer{layer}, io.Discard, testLimits); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	wantEmpty(t, dir)
}

// cancelling is an endless layer that is cancelled while it is read.
type cancelling struct{ cancel func() }

func (c cancelling) Read(p []byte) (int, error) {
	c.cancel()
	n := copy(p, tarHeader)
	return n, nil
}

var tarHeader = func() []byte {
	var b bytes.Buffer
	_ = tar.NewWriter(&b).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "more"})
	return b.Bytes()
}()

// The tree is unpacked where nobody else can see it, and where its files are
// harmless.
func TestPrivatePlace(t *testing.T) {
	require.Root(t)
	parent := t.TempDir()
	before, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	p, err := newWorkplace(parent)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(p.dir, p.name)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("got %v, %v, want mode 0700", info, err)
	}
	var st unix.Statfs_t
	var found []os.DirEntry
	err = p.inside(func() error {
		found, err = os.ReadDir("/..")
		return errors.Join(err, unix.Statfs("/", &st))
	})
	const want = unix.ST_NODEV | unix.ST_NOSUID | unix.ST_NOEXEC
	if err != nil || st.Flags&want != want || len(found) > 0 {
		t.Errorf("got %v, flags %x, files %v; want nodev, nosuid, noexec and an empty root", err, st.Flags, found)
	}
	after, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("mounts of the node: got %v (-before +after)\n%s", err, cmp.Diff(string(before), string(after)))
	}
	if wd, err := os.Getwd(); err != nil || wd == "/" {
		t.Errorf("working directory: got %q, %v, want it unchanged", wd, err)
	}
	// A process that dies leaves the folder to the next one.
	if err := os.MkdirAll(filepath.Join(path, deep(1000)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(parent, "kept"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Sweep(t.Context(), parent); err != nil {
		t.Fatal(err)
	}
	if left := folderTree(t, parent); len(left) != 1 {
		t.Errorf("swept: got %v left, want only the file that is not a workplace", left)
	}
}
