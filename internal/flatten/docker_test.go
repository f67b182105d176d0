// SPDX-License-Identifier: Apache-2.0

package flatten

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/docker/dockertest"
	"botbottle.dev/bottle-operator/test/require"
)

func TestMain(m *testing.M) { dockertest.Main(m) }

// dockerCase is an image whose tree must be the one that docker shows.
type dockerCase struct {
	layers [][]entry
	// implied are the folders that a layer uses without an entry for them.
	// Docker's storage drivers make them anew, with the time of unpacking, as
	// mode 0755 of root, even where a lower layer has them. Flatten keeps what
	// the lower layer says, as containerd does.
	implied []string
	// alone is set if the image cannot be a part of another one's tree.
	alone bool
}

func dockerCases() map[string]dockerCase {
	long := strings.Repeat("long-name-", 20)
	many := make([][]entry, 10)
	for i := range many {
		many[i] = []entry{file("f", fmt.Sprint(i)), file(fmt.Sprintf("only-%d", i), "x")}
	}
	return map[string]dockerCase{
		"files and folders": {layers: [][]entry{{dir("a"), dir("a/b"), file("a/b/c", "text"), file("a/empty", "")}}},
		"modes": {layers: [][]entry{{dir("a").mode(0o1777), dir("b").mode(0o2755), dir("c").mode(0), file("suid", "x").mode(0o4755),
			file("sgid", "x").mode(0o2711), file("none", "x").mode(0), file("a/all", "x").mode(0o7777)}}},
		"owners": {layers: [][]entry{{dir("home").owner(1000, 100), file("home/f", "x").owner(65534, 65534), file("large", "x").owner(3000000, 3000001),
			symlink("l", "home").owner(7, 8), special(tar.TypeFifo, "p", 0, 0).owner(9, 10), file("suid", "x").owner(5, 6).mode(0o6755)}}},
		"symlinks":               {layers: [][]entry{{dir("a"), symlink("a/up", "../b"), symlink("abs", "/etc/passwd"), symlink("dangling", "no/such"), symlink("loop", "loop")}}},
		"hard links":             {layers: [][]entry{{dir("a"), dir("b"), file("a/x", "1"), hardLink("a/y", "a/x"), hardLink("b/z", "a/x"), file("b/other", "1")}}},
		"hard link to a symlink": {layers: [][]entry{{symlink("l", "to"), hardLink("m", "l")}}},
		"rewritten hard link":    {layers: [][]entry{{dir("bin"), file("bin/x", "old"), hardLink("bin/y", "bin/x")}, {dir("bin"), file("bin/x", "new")}}},
		"rewritten hard link, both names": {layers: [][]entry{{dir("bin"), file("bin/x", "old"), hardLink("bin/y", "bin/x")},
			{dir("bin"), file("bin/x", "new"), hardLink("bin/y", "bin/x")}}},
		"removed name of a hard link": {layers: [][]entry{{file("a", "1"), hardLink("b", "a"), hardLink("c", "a")}, {file(".wh.a", "")}}},
		"all but one name removed":    {layers: [][]entry{{file("a", "1"), hardLink("b", "a")}, {file(".wh.a", "")}, {file("a", "2")}}},
		"opaque folder":               {layers: [][]entry{{dir("etc"), dir("etc/app"), file("etc/app/a", "1")}, {dir("etc"), dir("etc/app"), file("etc/app/.wh..wh..opq", ""), file("etc/app/b", "2")}}},
		"opaque marker after its siblings": {layers: [][]entry{{dir("d"), dir("d/sub"), file("d/sub/old", "1"), file("d/a", "1")},
			{dir("d"), file("d/b", "2"), dir("d/sub"), file("d/sub/new", "2"), file("d/.wh..wh..opq", "")}}},
		"opaque folders in three layers": {layers: [][]entry{{dir("d"), file("d/1", "1")}, {dir("d"), file("d/.wh..wh..opq", ""), file("d/2", "2")},
			{dir("d"), dir("d/e"), file("d/3", "3")}, {dir("d"), dir("d/e"), file("d/e/.wh..wh..opq", ""), file("d/e/4", "4")}}},
		"opaque folder in an opaque folder": {layers: [][]entry{{dir("d"), dir("d/e"), file("d/e/1", "1")},
			{dir("d"), file("d/.wh..wh..opq", ""), dir("d/e"), file("d/e/.wh..wh..opq", ""), file("d/e/2", "2")}}},
		"opaque root":                        {layers: [][]entry{{file("a", "1"), dir("d")}, {file(".wh..wh..opq", ""), file("b", "2")}}, alone: true},
		"opaque folder that is new":          {layers: [][]entry{{file("a", "1")}, {dir("d"), file("d/.wh..wh..opq", ""), file("d/b", "2")}}},
		"whiteout of a file":                 {layers: [][]entry{{dir("d"), file("d/a", "1"), file("d/b", "1")}, {dir("d"), file("d/.wh.a", "")}}},
		"whiteout of a folder":               {layers: [][]entry{{dir("d"), dir("d/e"), file("d/e/a", "1")}, {dir("d"), file("d/.wh.e", "")}}},
		"whiteout of a symlink":              {layers: [][]entry{{dir("d"), file("d/a", "1"), symlink("l", "d"), symlink("m", "d/a")}, {file(".wh.l", ""), file(".wh.m", "")}}},
		"whiteout of nothing":                {layers: [][]entry{{dir("d")}, {dir("d"), file("d/.wh.no", ""), file(".wh.such", "")}}},
		"whiteout in a lower layer":          {layers: [][]entry{{dir("d"), file("d/.wh.a", ""), file("d/b", "1")}, {file("c", "1")}}},
		"removed and made again":             {layers: [][]entry{{dir("d"), file("d/a", "1"), file("f", "1").owner(1, 1)}, {file(".wh.d", ""), file(".wh.f", "")}, {dir("d"), file("d/b", "2"), file("f", "2")}}},
		"whiteout before a new file":         {layers: [][]entry{{file("f", "1"), file("g", "1")}, {file(".wh.f", ""), file("f", "2")}}},
		"whiteout before a new folder":       {layers: [][]entry{{dir("d"), file("d/a", "1")}, {file(".wh.d", ""), dir("d"), file("d/b", "2")}}},
		"file becomes a folder":              {layers: [][]entry{{file("f", "1")}, {dir("f"), file("f/a", "2")}}},
		"folder becomes a file":              {layers: [][]entry{{dir("d"), dir("d/e"), file("d/e/a", "1")}, {file("d", "2")}}},
		"folder becomes a file and a folder": {layers: [][]entry{{dir("d"), file("d/a", "1")}, {file("d", "2")}, {dir("d"), file("d/b", "3")}}},
		"folder becomes a symlink":           {layers: [][]entry{{dir("d"), file("d/a", "1"), dir("e"), file("e/b", "1")}, {symlink("d", "e")}}},
		"symlink becomes a folder":           {layers: [][]entry{{dir("e"), file("e/b", "1"), symlink("d", "e")}, {dir("d"), file("d/a", "2")}}},
		"symlink becomes a file":             {layers: [][]entry{{file("to", "1"), symlink("l", "to")}, {file("l", "2")}}},
		"file becomes a symlink":             {layers: [][]entry{{file("l", "1"), file("to", "1")}, {symlink("l", "to")}}},
		"file becomes a fifo":                {layers: [][]entry{{file("p", "1")}, {special(tar.TypeFifo, "p", 0, 0)}}},
		"below a symlink of a lower layer": {layers: [][]entry{{dir("usr"), dir("usr/bin"), file("usr/bin/a", "1"), symlink("bin", "usr/bin")}, {file("bin/b", "2")}},
			implied: []string{"bin/"}},
		"below a symlink of its own layer":    {layers: [][]entry{{dir("usr"), dir("usr/bin"), symlink("bin", "usr/bin"), file("bin/b", "2"), symlink("abs", "/usr"), file("abs/c", "3")}}, alone: true},
		"changed folder":                      {layers: [][]entry{{dir("d").mode(0o700).owner(1, 2), file("d/a", "1")}, {dir("d").mode(0o1777).owner(3, 4).at(then.Add(time.Hour))}}},
		"changed times only":                  {layers: [][]entry{{dir("d"), file("d/a", "1")}, {file("d/a", "1").at(then.Add(time.Hour))}}, implied: []string{"d/"}},
		"implied folder that exists":          {layers: [][]entry{{dir("d"), dir("d/e"), file("d/e/a", "1")}, {file("d/e/b", "2")}, {file("d/c", "3")}}, implied: []string{"d/", "d/e/"}},
		"implied folder that is new":          {layers: [][]entry{{file("d/e/b", "2")}}, implied: []string{"d/", "d/e/"}},
		"implied folder that whiteouts use":   {layers: [][]entry{{dir("d"), file("d/a", "1")}, {file("d/.wh.a", "")}}, implied: []string{"d/"}},
		"capabilities":                        {layers: [][]entry{{file("ping", "x").mode(0o755).xattr("security.capability", netBindService)}}},
		"capabilities of a rewritten file":    {layers: [][]entry{{file("a", "x").xattr("security.capability", netBindService), file("b", "x").xattr("security.capability", netBindService)}, {file("a", "x")}}},
		"capabilities of an owned file":       {layers: [][]entry{{file("a", "x").owner(5, 5).mode(0o4755).xattr("security.capability", netBindService)}}},
		"user attributes":                     {layers: [][]entry{{file("f", "x").xattr("user.a", "1").xattr("user.b", "\x00\xff="), dir("d").xattr("user.c", "1"), hardLink("g", "f")}}},
		"user attributes of a changed folder": {layers: [][]entry{{dir("d").xattr("user.a", "1"), file("d/f", "x")}, {dir("d").xattr("user.b", "2")}}},
		"attributes that only root sees":      {layers: [][]entry{{file("f", "x").xattr("security.other", "1")}}},
		"access lists":                        {layers: [][]entry{{file("f", "x").xattr("system.posix_acl_access", acl), dir("d").xattr("system.posix_acl_default", acl)}}},
		"devices":                             {layers: [][]entry{{dir("d"), special(tar.TypeChar, "d/null", 1, 3), special(tar.TypeBlock, "d/loop", 7, 200), special(tar.TypeChar, "d/large", 300, 70000)}}},
		"fifo":                                {layers: [][]entry{{special(tar.TypeFifo, "p", 0, 0)}}},
		"device as a whiteout":                {layers: [][]entry{{dir("d"), file("d/a", "1")}, {dir("d"), special(tar.TypeChar, "d/a", 0, 0)}}},
		"long names":                          {layers: [][]entry{{dir(long), file(long+"/"+long, "x"), symlink("l", long+"/"+long+"/"+long), hardLink(long+"h", long+"/"+long)}}},
		"long names in GNU form":              {layers: [][]entry{{dir(long).format(tar.FormatGNU), file(long+"/"+long, "x").format(tar.FormatGNU)}}},
		"deep folders":                        {layers: [][]entry{{file(deep(400)+"/f", "x")}}, implied: deepNames(400)},
		"odd names":                           {layers: [][]entry{{file("with space", "x"), file("new\nline", "x"), file("ünïcode", "x"), file("\xff\xfe", "x"), file("-x", "x"), file("*", "x"), file("back\\slash", "x")}}},
		"names in several forms":              {layers: [][]entry{{dir("./d"), file("./d/a", "1"), file("/abs", "1"), file("d/../b", "1"), file("d//c", "1"), file("../../up", "1")}}, alone: true},
		"entry for the root":                  {layers: [][]entry{{dir(".").mode(0o700).owner(5, 5), file("./a", "1")}}, alone: true},
		"content":                             {layers: [][]entry{{file("large", strings.Repeat("0123456789abcdef", 1<<17)), file("zeros", strings.Repeat("\x00", 1<<20))}}},
		"times":                               {layers: [][]entry{{file("ns", "x").at(time.Unix(1577934245, 123456789)).format(tar.FormatPAX), file("old", "x").at(time.Unix(-86400, 0)), file("epoch", "x").at(time.Unix(0, 0)), file("far", "x").at(time.Unix(5e9, 0)), dir("d").at(time.Unix(1, 0)), file("d/a", "x"), symlink("l", "x").at(time.Unix(2, 0))}}},
		"implied folder with a mode":          {layers: [][]entry{{dir("tmp").mode(0o1777).owner(3, 4).xattr("user.a", "1"), file("tmp/a", "1")}, {file("tmp/b", "2")}}, implied: []string{"tmp/"}},
		"empty layer, one layer twice, global header": {layers: [][]entry{{file("a", "1")}, {}, {dir("d"), file("d/b", "2")}, {dir("d"), file("d/b", "2")},
			{{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "x"}}}, file("c", "3")}}, alone: true},
		"many layers": {layers: many, alone: true},
	}
}

// acl lets user 1 read.
const acl = "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x01\x00\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"

func deepNames(n int) []string {
	var names []string
	for i := range n {
		names = append(names, deep(i+1)+"/")
	}
	return names
}

// TestLikeDocker compares the flattened tree with what docker export gives for
// the same image, and with the layers as docker mounts them, because an export
// leaves out most extended attributes. To save time, most cases share an image,
// in which each has a folder of its own.
func TestLikeDocker(t *testing.T) {
	engine := dockertest.Start(t)
	c := engine.Client(t)
	var shared dockerCase
	for _, name := range slices.Sorted(maps.Keys(dockerCases())) {
		tc := dockerCases()[name]
		if !tc.alone {
			shared.include(name, tc)
			continue
		}
		t.Run(name, func(t *testing.T) { compare(t, c, tc.archives(t), tc.implied) })
	}
	t.Run("all others", func(t *testing.T) { compare(t, c, shared.archives(t), shared.implied) })
	t.Run("sparse file", func(t *testing.T) { compare(t, c, [][]byte{sparseTar(t)}, nil) })
}

// include adds the tree of another image in a folder.
func (d *dockerCase) include(folder string, other dockerCase) {
	for n, entries := range other.layers {
		if n == len(d.layers) {
			d.layers = append(d.layers, nil)
		}
		d.layers[n] = append(d.layers[n], dir(folder))
		for _, e := range entries {
			e.Name = folder + "/" + e.Name
			if e.Typeflag == tar.TypeLink {
				e.Linkname = folder + "/" + e.Linkname
			}
			d.layers[n] = append(d.layers[n], e)
		}
	}
	for _, name := range other.implied {
		d.implied = append(d.implied, folder+"/"+name)
	}
}

func (d *dockerCase) archives(t *testing.T) [][]byte {
	var archives [][]byte
	for _, entries := range d.layers {
		archives = append(archives, tarOf(t, entries...))
	}
	return archives
}

func compare(t *testing.T, c *client.Client, archives [][]byte, implied []string) {
	t.Helper()
	var out bytes.Buffer
	if _, err := Flatten(t.Context(), t.TempDir(), layersOf(archives...), &out, testLimits); err != nil {
		t.Fatal(err)
	}
	got := treeOf(t, out.Bytes())
	image := loadImage(t, c, archives)
	exported := exportImage(t, c, image)
	if diff := cmp.Diff(inExport(exported, implied), inExport(got, implied)); diff != "" {
		t.Errorf("differs from docker export (-docker +flattened):\n%s", diff)
	}
	if mounted := mountImage(t, c, image); mounted != nil {
		if diff := cmp.Diff(withoutImplied(mounted, implied), withoutImplied(got, implied)); diff != "" {
			t.Errorf("differs from docker's mount (-docker +flattened):\n%s", diff)
		}
	}
}

// inExport returns the tree as docker export shows it: without the files that
// docker adds to every container and the folders in which it adds them, and
// without attributes except capabilities. Times in an export have no fractions.
func inExport(tree map[string]node, implied []string) map[string]node {
	tree = withoutImplied(tree, implied)
	for _, added := range []string{".dockerenv", "dev/", "dev/console", "dev/pts/", "dev/shm/", "etc/", "etc/hostname", "etc/hosts",
		"etc/mtab", "etc/resolv.conf", "proc/", "sys/"} {
		delete(tree, added)
	}
	for name, n := range tree {
		maps.DeleteFunc(n.Xattrs, func(k, _ string) bool { return k != "security.capability" })
		n.Time = n.Time.Truncate(time.Second)
		tree[name] = n
	}
	return tree
}

func withoutImplied(tree map[string]node, implied []string) map[string]node {
	tree = maps.Clone(tree)
	for name, n := range tree {
		n.Xattrs = maps.Clone(n.Xattrs)
		if slices.Contains(implied, name) {
			n.Time, n.Mode, n.UID, n.GID, n.Xattrs = time.Time{}, 0, 0, 0, nil
		}
		tree[name] = n
	}
	return tree
}

// sparseTar returns an archive by GNU tar of a file with holes.
func sparseTar(t *testing.T) []byte {
	t.Helper()
	if _, err := exec.LookPath("tar"); err != nil {
		require.Unmet(t, "needs GNU tar")
	}
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "holes"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("text"), 3<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(5 << 20); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "tar", "--format=pax", "--sparse", "--mtime=@1577934245", "-C", dir, "-c", "holes").Output()
	if err != nil {
		t.Fatal(err)
	}
	if len(out) > 1<<20 {
		t.Fatalf("the archive has %d bytes, want less than a tenth of the file", len(out))
	}
	return out
}

// loadImage loads the image that has these layers and returns its ID.
func loadImage(t *testing.T, c *client.Client, archives [][]byte) string {
	t.Helper()
	var diffIDs, names []string
	var entries []entry
	for n, a := range archives {
		diffIDs = append(diffIDs, fmt.Sprintf("sha256:%x", sha256.Sum256(a)))
		names = append(names, fmt.Sprintf("%d/layer.tar", n))
		entries = append(entries, file(names[n], string(a)))
	}
	config := marshal(t, map[string]any{"architecture": "amd64", "os": "linux", "config": map[string]any{"Cmd": []string{"/no"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs}})
	manifest := marshal(t, []any{map[string]any{"Config": "c.json", "Layers": names}})
	entries = append(entries, file("c.json", config), file("manifest.json", manifest))
	answer, err := c.ImageLoad(t.Context(), bytes.NewReader(tarOf(t, entries...)), client.ImageLoadWithQuiet(true))
	if err != nil {
		t.Fatalf("docker load: %v", err)
	}
	defer answer.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(answer); err != nil || strings.Contains(b.String(), "errorDetail") {
		t.Fatalf("docker load: %v: %s", err, b.String())
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(config)))
}

func marshal(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func exportImage(t *testing.T, c *client.Client, image string) map[string]node {
	t.Helper()
	created, err := c.ContainerCreate(t.Context(), client.ContainerCreateOptions{Config: &container.Config{Image: image}})
	if err != nil {
		t.Fatalf("docker create: %v", err)
	}
	r, err := c.ContainerExport(t.Context(), created.ID, client.ContainerExportOptions{})
	if err != nil {
		t.Fatalf("docker export: %v", err)
	}
	defer r.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(r); err != nil {
		t.Fatalf("docker export: %v", err)
	}
	if _, err := c.ContainerRemove(t.Context(), created.ID, client.ContainerRemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	return treeOf(t, b.Bytes())
}

// mountImage mounts the image's layers as docker does for a container. It
// returns nil if docker keeps images in another way.
func mountImage(t *testing.T, c *client.Client, image string) map[string]node {
	t.Helper()
	inspected, err := c.ImageInspect(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	if inspected.GraphDriver == nil || inspected.GraphDriver.Data["UpperDir"] == "" {
		return nil
	}
	data := inspected.GraphDriver.Data
	lower := []string{data["UpperDir"]}
	if data["LowerDir"] != "" {
		lower = append(lower, strings.Split(data["LowerDir"], ":")...)
	}
	// The option must fit into a page, so it has short names.
	short := t.TempDir()
	for i, dir := range lower {
		if err := os.Symlink(dir, filepath.Join(short, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		lower[i] = fmt.Sprint(i)
	}
	empty, mount := filepath.Join(short, "e"), filepath.Join(short, "m")
	for _, dir := range []string{empty, mount} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(short)
	if err := unix.Mount("overlay", mount, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(lower, ":")+":e"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(mount, 0); err != nil {
			t.Error(err)
		}
	}()
	return folderTree(t, mount)
}
