// SPDX-License-Identifier: Apache-2.0

package story

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flatten"
	"botbottle.dev/bottle-operator/test/imagetree"
)

// treeFolder is where a guest made by GuestWithTree has the tree.
const treeFolder = "tree"

// GuestWithTree returns the default guest image with the layers of a case on top, in
// a folder of their own.
func (c *Cluster) GuestWithTree(t testing.TB, tree imagetree.Case) v1.Image {
	t.Helper()
	list := filepath.Join(t.TempDir(), "list")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", list, "botbottle.dev/bottle-operator/test/imagetree/list")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build list: %v\n%s", err, out)
	}
	program, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	layers := [][]byte{imagetree.Tar(t, imagetree.File("list", string(program)).Chmod(0o755))}
	below := imagetree.Case{}
	below.Include(treeFolder, tree)
	img := c.NewGuest(t)
	for _, l := range append(layers, below.Archives(t)...) {
		if img, err = mutate.AppendLayers(img, static.NewLayer(l, types.OCIUncompressedLayer)); err != nil {
			t.Fatal(err)
		}
	}
	return img
}

// WantTree checks that the guest of b, whose image is from GuestWithTree, has the tree
// that docker run would show. internal/flatten's tests compare with a Docker Engine.
func (c *Cluster) WantTree(t testing.TB, b *v1alpha1.Bottle, tree imagetree.Case) {
	t.Helper()
	var layers []flatten.Layer
	for _, l := range tree.Archives(t) {
		layers = append(layers, flatten.Layer{Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(l)), nil }})
	}
	var flat bytes.Buffer
	if _, err := flatten.Flatten(t.Context(), t.TempDir(), layers, &flat, flatten.Limits{MaxBytes: 1 << 30, MaxEntries: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	want, err := imagetree.OfTar(&flat)
	if err != nil {
		t.Fatal(err)
	}
	got, err := imagetree.Decode(strings.TrimSpace(c.Guest(t, b, "/list", "/"+treeFolder)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(imagetree.LostBySmolvm(want), got); diff != "" {
		t.Errorf("tree in the guest (-want +got)\n%s", diff)
	}
}
