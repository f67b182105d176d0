// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/story"
)

// imageFolder is where the agents of the development cluster keep images. Each may
// have at most 1 GiB.
const imageFolder = "/var/lib/bottle/images"

// mountTmpfs mounts a tmpfs over the node's image directory until the test ends. It
// returns a function that changes the tmpfs's size. The tmpfs contains no images of
// other tests, and filling it affects no disk that others use.
func mountTmpfs(t *testing.T, c *story.Cluster, node, size string) (resize func(size string)) {
	t.Helper()
	c.Exec(t, node, "mount", "-t", "tmpfs", "-o", "mode=711,size="+size, "tmpfs", imageFolder)
	// -l: a failed test may still have files open there.
	t.Cleanup(func() { c.Exec(t, node, "umount", "-l", imageFolder) })
	return func(size string) {
		t.Helper()
		c.Exec(t, node, "mount", "-o", "remount,size="+size, imageFolder)
	}
}

// wantNoImage checks that the node has no file of a refused image, partial or
// complete, and no machine for b.
func wantNoImage(t *testing.T, c *story.Cluster, b *v1alpha1.Bottle, digest string) {
	t.Helper()
	// Wait, because the index of images is also written to a temporary file first.
	c.Eventually(t, "no temporary file in the image directory", func() (string, bool) {
		files := c.Exec(t, node1, "ls", "-A", imageFolder)
		return files, !strings.Contains(files, ".tmp-") && !strings.Contains(files, ".flatten-")
	})
	archive := strings.TrimPrefix(digest, "sha256:") + ".flat.tar"
	if files := c.Exec(t, node1, "ls", "-A", imageFolder); strings.Contains(files, archive) {
		t.Errorf("image directory: got %s in\n%s", archive, files)
	}
	if machines := c.Exec(t, node1, "smolvm", "machine", "ls", "--json"); strings.Contains(machines, story.ID(b)) {
		t.Errorf("machines: got %s, want none for %s", machines, b.Name)
	}
}

// wantPullError waits until the pull for b has failed, and checks the condition's
// message. The reason may be ErrImagePull or ImagePullBackOff.
func wantPullError(t *testing.T, c *story.Cluster, b *v1alpha1.Bottle, texts ...string) {
	t.Helper()
	var got *metav1.Condition
	c.WaitFor(t, b, "to have no image", func() bool {
		got = meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionMachineReady)
		return got != nil && (got.Reason == v1alpha1.ReasonErrImagePull || got.Reason == v1alpha1.ReasonImagePullBackOff)
	})
	for _, want := range texts {
		if !strings.Contains(got.Message, want) {
			t.Errorf("%s: got message %q, want %q in it", b.Name, got.Message, want)
		}
	}
}

func TestImageWithTooLargeManifest(t *testing.T) {
	t.Parallel()
	c := connect(t)
	ns := c.Namespace(t)
	guest := c.NewGuest(t)
	m, err := guest.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	config, err := guest.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	m = m.DeepCopy()
	layer := m.Layers[0]
	m.Layers = nil
	for i := range 8 { // none is too large by itself
		layer.Size = 512 << 20
		if i == 0 {
			layer.Size -= m.Config.Size
		}
		m.Layers = append(m.Layers, layer)
	}
	digest := c.PushManifest(t, node1, ns+"/claims:1", m, config)
	b := fromRegistry(ns, "claims", ns+"/claims:1")
	c.Apply(t, b)
	wantPullError(t, c, b, "has 4 GiB", "more than the 1 GiB", "--image-max-bytes")
	if got := story.BlobRequests(c.Requests(t, node1, ns+"/claims")); len(got) != 0 {
		t.Errorf("blobs requested: got %+v, want none", got)
	}
	wantNoImage(t, c, b, digest)
}

// The image has about a megabyte, and unpacks to more than the allowed gigabyte.
func TestImageThatUnpacksTooLarge(t *testing.T) {
	c := connect(t)
	ns := c.Namespace(t)
	mountTmpfs(t, c, node1, "2g")
	digest := c.PushImage(t, node1, ns+"/unpacks:1", guestWith(t, c, newZeros(t, 1<<30+zeroPart)))
	b := fromRegistry(ns, "unpacks", ns+"/unpacks:1")
	c.Apply(t, b)
	wantPullError(t, c, b, "unpacks to more than the 1 GiB", "--image-max-bytes")
	wantNoImage(t, c, b, digest)
	c.DeleteAndWait(t, b)
}

// The disk has room for the compressed image, but it fills up during unpacking.
func TestDiskFullWhilePulling(t *testing.T) {
	c := connect(t)
	ns := c.Namespace(t)
	// The agent keeps 512 MiB free (--image-reserve-bytes).
	resize := mountTmpfs(t, c, node1, "640m")
	digest := c.PushImage(t, node1, ns+"/full:1", guestWith(t, c, newZeros(t, 192<<20)))
	b := fromRegistry(ns, "full", ns+"/full:1")
	c.Apply(t, b)
	wantPullError(t, c, b, "disk is full", imageFolder, "--image-reserve-bytes", "automatically")
	wantNoImage(t, c, b, digest)
	if got := story.BlobRequests(c.Requests(t, node1, ns+"/full")); len(got) < 4 {
		t.Errorf("blobs requested: got %+v, want the config and all three layers, because the disk fills up only during the pull", got)
	}
	resize("2g")
	c.WaitRunning(t, b)
	wantDigest(t, b, digest)
	// Delete it before its archive disappears with the filesystem.
	c.DeleteAndWait(t, b)
}

// zeros is a layer with one file of n zero bytes, where n is a multiple of 16 MiB. It is
// compressed to about a thousandth of its size.
type zeros struct {
	v1.Layer
	header []byte // of the file in the layer's archive
	n      int
}

const zeroPart = 16 << 20

// trailer ends a tar archive.
var trailer = make([]byte, 1024)

func newZeros(t *testing.T, n int) v1.Layer {
	t.Helper()
	var header bytes.Buffer
	if err := tar.NewWriter(&header).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "zeros", Mode: 0o644, Size: int64(n)}); err != nil {
		t.Fatal(err)
	}
	// Repeating one compressed part gives the same content much faster.
	part := compressed(t, make([]byte, zeroPart))
	packed := slices.Concat(compressed(t, header.Bytes()), bytes.Repeat(part, n/zeroPart), compressed(t, trailer))
	return zeros{static.NewLayer(packed, types.DockerLayer), header.Bytes(), n}
}

func compressed(t *testing.T, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func (z zeros) DiffID() (v1.Hash, error) {
	sum, part := sha256.New(), make([]byte, zeroPart)
	sum.Write(z.header)
	for range z.n / zeroPart {
		sum.Write(part)
	}
	sum.Write(trailer)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum.Sum(nil))}, nil
}

// guestWith returns a new guest image with one more layer.
func guestWith(t *testing.T, c *story.Cluster, layer v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(c.NewGuest(t), layer)
	if err != nil {
		t.Fatal(err)
	}
	return img
}
