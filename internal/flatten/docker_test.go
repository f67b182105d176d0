// SPDX-License-Identifier: Apache-2.0

package flatten

import (
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
	"botbottle.dev/bottle-operator/test/imagetree"
	"botbottle.dev/bottle-operator/test/require"
)

func TestMain(m *testing.M) { dockertest.Main(m) }

// TestLikeDocker compares the flattened tree with what docker export gives for
// the same image, and with the layers as docker mounts them, because an export
// leaves out most extended attributes. To save time, most cases share an image,
// in which each has a folder of its own.
func TestLikeDocker(t *testing.T) {
	engine := dockertest.Start(t)
	c := engine.Client(t)
	for name, image := range imagetree.Images() {
		t.Run(name, func(t *testing.T) { compare(t, c, image.Archives(t), image.Implied) })
	}
	t.Run("sparse file", func(t *testing.T) { compare(t, c, [][]byte{sparseTar(t)}, nil) })
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
func inExport(tree imagetree.Tree, implied []string) imagetree.Tree {
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

func withoutImplied(tree imagetree.Tree, implied []string) imagetree.Tree {
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
	var entries []imagetree.Entry
	for n, a := range archives {
		diffIDs = append(diffIDs, fmt.Sprintf("sha256:%x", sha256.Sum256(a)))
		names = append(names, fmt.Sprintf("%d/layer.tar", n))
		entries = append(entries, imagetree.File(names[n], string(a)))
	}
	config := marshal(t, map[string]any{"architecture": "amd64", "os": "linux", "config": map[string]any{"Cmd": []string{"/no"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs}})
	manifest := marshal(t, []any{map[string]any{"Config": "c.json", "Layers": names}})
	entries = append(entries, imagetree.File("c.json", config), imagetree.File("manifest.json", manifest))
	answer, err := c.ImageLoad(t.Context(), bytes.NewReader(imagetree.Tar(t, entries...)), client.ImageLoadWithQuiet(true))
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

func exportImage(t *testing.T, c *client.Client, image string) imagetree.Tree {
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
func mountImage(t *testing.T, c *client.Client, image string) imagetree.Tree {
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
