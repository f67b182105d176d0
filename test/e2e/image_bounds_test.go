// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
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

// imageFolder is where the agents of the development cluster keep images, of
// at most 1 GiB each.
const imageFolder = "/var/lib/bottle/images"

// onMemory puts a filesystem of its own over the node's folder of images,
// until the test ends, and returns what changes its size. No other test's
// images are in it, and no disk fills up that others use.
func onMemory(t *testing.T, c *story.Cluster, node, size string) (resize func(size string)) {
	t.Helper()
	c.Exec(t, node, "mount", "-t", "tmpfs", "-o", "mode=711,size="+size, "tmpfs", imageFolder)
	// Whatever a story that failed still has open there.
	t.Cleanup(func() { c.Exec(t, node, "umount", "-l", imageFolder) })
	return func(size string) {
		t.Helper()
		c.Exec(t, node, "mount", "-o", "remount,size="+size, imageFolder)
	}
}

// wantNothing checks that of an image which was refused no file is left on
// the node, half written or whole, and that no machine was made.
func wantNothing(t *testing.T, c *story.Cluster, b *v1alpha1.Bottle, digest string) {
	t.Helper()
	// The index of images is written by way of such a file too.
	c.Eventually(t, "no file on its way into the folder of images", func() (string, bool) {
		files := c.Exec(t, node1, "ls", "-A", imageFolder)
		return files, !strings.Contains(files, ".tmp-")
	})
	archive := strings.TrimPrefix(digest, "sha256:") + ".tar"
	if files := c.Exec(t, node1, "ls", "-A", imageFolder); strings.Contains(files, archive) {
		t.Errorf("folder of images: got %s in\n%s", archive, files)
	}
	if machines := c.Exec(t, node1, "smolvm", "machine", "ls", "--json"); strings.Contains(machines, story.ID(b)) {
		t.Errorf("machines: got %s, want none for %s", machines, b.Name)
	}
}

// wantSaid waits until the pull for b has failed, and checks what is said of
// it, at once and while it is not tried again.
func wantSaid(t *testing.T, c *story.Cluster, b *v1alpha1.Bottle, texts ...string) {
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

func TestImageThatClaimsTooMuch(t *testing.T) {
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
	for i := range 8 { // none of which is too large by itself
		layer.Size = 512 << 20
		if i == 0 {
			layer.Size -= m.Config.Size
		}
		m.Layers = append(m.Layers, layer)
	}
	digest := c.PushManifest(t, node1, ns+"/claims:1", m, config)
	b := from(ns, "claims", ns+"/claims:1")
	c.Apply(t, b)
	wantSaid(t, c, b, "has 4 GiB", "more than the 1 GiB", "--image-max-bytes")
	if got := story.BlobRequests(c.Requests(t, node1, ns+"/claims")); len(got) != 0 {
		t.Errorf("blobs asked for: got %+v, want none", got)
	}
	wantNothing(t, c, b, digest)
}

// A megabyte that becomes more than the gigabyte that is allowed.
func TestImageThatUnpacksToTooMuch(t *testing.T) {
	c := connect(t)
	ns := c.Namespace(t)
	onMemory(t, c, node1, "2g")
	digest := c.PushImage(t, node1, ns+"/unpacks:1", guestWith(t, c, newZeros(t, 1<<30+zeroPart)))
	b := from(ns, "unpacks", ns+"/unpacks:1")
	c.Apply(t, b)
	wantSaid(t, c, b, "unpacks to more than the 1 GiB", "--image-max-bytes")
	wantNothing(t, c, b, digest)
	c.Gone(t, b)
}

// The disk has room for what is sent, and fills up with what is unpacked.
func TestDiskFullWhilePulling(t *testing.T) {
	c := connect(t)
	ns := c.Namespace(t)
	// 512 MiB are kept free (--image-reserve-bytes).
	resize := onMemory(t, c, node1, "640m")
	digest := c.PushImage(t, node1, ns+"/full:1", guestWith(t, c, newZeros(t, 192<<20)))
	b := from(ns, "full", ns+"/full:1")
	c.Apply(t, b)
	wantSaid(t, c, b, "disk is full", imageFolder, "--image-reserve-bytes", "automatically")
	wantNothing(t, c, b, digest)
	if got := story.BlobRequests(c.Requests(t, node1, ns+"/full")); len(got) < 4 {
		t.Errorf("blobs asked for: got %+v, want the config and all three layers: the disk was full only on the way", got)
	}
	resize("2g")
	c.WaitRuns(t, b)
	wantDigest(t, b, digest)
	// Before its archive goes with the filesystem.
	c.Gone(t, b)
}

// zeros is a layer of n zeros, a multiple of 16 MiB: an empty tar archive that
// is sent as a thousandth of what it unpacks to.
type zeros struct {
	v1.Layer
	n int
}

const zeroPart = 16 << 20

func newZeros(t *testing.T, n int) v1.Layer {
	t.Helper()
	// One part again and again, which is as long, and made at once.
	var part bytes.Buffer
	z := gzip.NewWriter(&part)
	if _, err := z.Write(make([]byte, zeroPart)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return zeros{static.NewLayer(bytes.Repeat(part.Bytes(), n/zeroPart), types.DockerLayer), n}
}

func (z zeros) DiffID() (v1.Hash, error) {
	sum, part := sha256.New(), make([]byte, zeroPart)
	for range z.n / zeroPart {
		sum.Write(part)
	}
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum.Sum(nil))}, nil
}

// guestWith is a new guest with one more layer.
func guestWith(t *testing.T, c *story.Cluster, layer v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(c.NewGuest(t), layer)
	if err != nil {
		t.Fatal(err)
	}
	return img
}
