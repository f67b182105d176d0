// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/flatten"
	"botbottle.dev/bottle-operator/test/imagetree"
	"botbottle.dev/bottle-operator/test/require"
)

// guestRoot is the root file system of the real smolvm's guests. Its programs unpack
// images there.
const guestRoot = "../../../../bin/smolvm/1.32.2/agent-rootfs"

// TestLikeSmolvm compares the tree that the stand-in makes of a flattened archive
// with the tree that the programs of the real smolvm's guest make of it.
func TestLikeSmolvm(t *testing.T) {
	require.Root(t)
	require.File(t, filepath.Join(guestRoot, "usr/local/bin/crane"), "run make smolvm")
	flat := flattened(t, imagetree.Images()[imagetree.Shared])
	tree, err := imagetree.OfTar(bytes.NewReader(flat))
	if err != nil {
		t.Fatal(err)
	}
	content := savedImage(t, flat)
	real := inGuest(t, content)
	if diff := cmp.Diff(imagetree.LostBySmolvm(tree), real); diff != "" {
		t.Errorf("the real guest's tree differs from the image's (-image +guest)\n%s", diff)
	}
	img, err := unpack(t, content)
	if err != nil {
		t.Fatal(err)
	}
	got, err := imagetree.OfFolder(img.Rootfs)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(real, got); diff != "" {
		t.Errorf("the stand-in's tree differs from the real guest's (-real +stand-in)\n%s", diff)
	}
}

func flattened(t *testing.T, image imagetree.Case) []byte {
	t.Helper()
	var layers []flatten.Layer
	for _, l := range image.Archives(t) {
		layers = append(layers, flatten.Layer{Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(l)), nil }})
	}
	var flat bytes.Buffer
	if _, err := flatten.Flatten(t.Context(), t.TempDir(), layers, &flat, flatten.Limits{MaxBytes: 1 << 30, MaxEntries: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	return flat.Bytes()
}

// savedImage returns an image of one layer, whose config names the layer.
func savedImage(t *testing.T, layer []byte) []byte {
	t.Helper()
	config := fmt.Sprintf(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["sha256:%x"]}}`, sha256.Sum256(layer))
	return makeTar(t, entry{name: "manifest.json", text: `[{"Config":"c.json","Layers":["layer.tar"]}]`},
		entry{name: "c.json", text: config}, entry{name: "layer.tar", text: string(layer)})
}

// inGuest unpacks an archive as smolvm's agent does in the guest: crane export
// flattens the image, and GNU tar unpacks the result. Both are those of the guest.
func inGuest(t *testing.T, content []byte) imagetree.Tree {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"tree", "tmp", "proc", "usr/local/bin"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for from, to := range map[string]string{"bin": "", "lib": "", "usr/local/bin/crane": "usr/local/bin"} {
		if out, err := exec.CommandContext(t.Context(), "cp", "-a", filepath.Join(guestRoot, from), filepath.Join(root, to)).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	cmd := exec.CommandContext(t.Context(), "/bin/busybox", "sh", "-c", "mount -t proc proc /proc && /usr/local/bin/crane export - - | /bin/tar -x --numeric-owner -C /tree")
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Unshareflags: syscall.CLONE_NEWNS} // tar needs /proc
	cmd.Dir, cmd.Env, cmd.Stdin = "/", []string{"PATH=/bin", "HOME=/tmp"}, bytes.NewReader(content)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	tree, err := imagetree.OfFolder(filepath.Join(root, "tree"))
	if err != nil {
		t.Fatal(err)
	}
	return tree
}
