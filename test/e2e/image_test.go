// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/story"
)

// fromRegistry returns a Bottle on node-1 with an image from the registry.
func fromRegistry(ns, name, reference string) *v1alpha1.Bottle {
	b := bottleOn(node1, ns, name, name)
	b.Spec.Image = ptr(story.RegistryHost + "/" + reference)
	return b
}

func wantDigest(t *testing.T, b *v1alpha1.Bottle, want string) {
	t.Helper()
	if got := b.Status.Image; got == nil || got.Digest == nil || *got.Digest != want || got.Reference != *b.Spec.Image {
		t.Errorf("image of %s: got %+v, want %s with digest %s", b.Name, got, *b.Spec.Image, want)
	}
	if !meta.IsStatusConditionTrue(b.Status.Conditions, v1alpha1.ConditionMachineReady) {
		t.Errorf("%s is not MachineReady:%s", b.Name, story.Conditions(b))
	}
}

// Twenty Bottles that need an image at the same time share one pull, which only the
// node makes.
func TestImageIsPulledOnceByTheNode(t *testing.T) {
	t.Parallel()
	c := connect(t)
	ns := c.Namespace(t)
	digest := c.PushGuest(t, node1, ns+"/agent:1")
	before := len(c.Requests(t, node1, ns+"/agent"))
	var bottles []*v1alpha1.Bottle
	for i := range 20 {
		bottles = append(bottles, fromRegistry(ns, fmt.Sprintf("one-of-%d", i), ns+"/agent:1"))
	}
	c.Apply(t, bottles...)
	c.WaitRunning(t, bottles...)
	for _, b := range bottles {
		wantDigest(t, b, digest)
	}
	byDigest := fromRegistry(ns, "by-digest", ns+"/agent@"+digest)
	c.Apply(t, byDigest)
	c.WaitRunning(t, byDigest)
	wantDigest(t, byDigest, digest)

	pulled := c.Requests(t, node1, ns+"/agent")[before:]
	times := map[string]int{}
	for _, r := range story.BlobRequests(pulled) {
		times[r.Path]++
	}
	if len(times) != 3 { // the config and two layers
		t.Errorf("blobs requested: got %v, want three", times)
	}
	for path, n := range times {
		if n != 1 {
			t.Errorf("%s: got requested %d times, want once", path, n)
		}
	}
	c.WantPulledByNode(t, node1, pulled)
	// No machine dialled the registry either. The last line shows that a wall would
	// have observed it.
	for _, b := range bottles {
		if c.MachineDialledRegistry(t, b) {
			t.Errorf("the machine of %s dialled the registry", b.Name)
		}
	}
	c.WantDialToRegistrySeen(t, byDigest)
}

func TestPrivateImage(t *testing.T) {
	t.Parallel()
	c := connect(t)
	ns := c.Namespace(t)
	repository := "private/" + ns + "/agent"
	digest := c.PushGuest(t, node1, repository+":1")
	right, hidden := story.DockerConfig(c.RegistryPassword(t))
	wrong, more := story.DockerConfig("wr0ng-passw0rd-" + ns)
	secret := func(name string, content []byte) {
		t.Helper()
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns}, Type: corev1.SecretTypeDockerConfigJson,
			Data: map[string][]byte{corev1.DockerConfigJsonKey: content}}
		if err := c.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	secret("right", right)
	secret("wrong", wrong)
	bottles := map[string]*v1alpha1.Bottle{}
	for _, name := range []string{"right", "wrong", "later", "none"} {
		b := fromRegistry(ns, name, repository+":1")
		if name != "none" {
			b.Spec.ImagePullSecrets = []v1alpha1.LocalObjectReference{{Name: name}}
		}
		bottles[name] = b
		c.Apply(t, b)
	}
	c.WaitRunning(t, bottles["right"])
	wantDigest(t, bottles["right"], digest)
	// Although the node now has the image, a Bottle must not get it if the registry
	// refuses its credentials.
	for name, reason := range map[string]string{"wrong": "were refused", "later": "no credentials", "none": "no credentials"} {
		got := c.WaitReason(t, bottles[name], v1alpha1.ConditionMachineReady, v1alpha1.ReasonImagePullBackOff)
		for _, want := range []string{reason, "401 Unauthorized, UNAUTHORIZED: authentication required", story.RegistryHost} {
			if !strings.Contains(got.Message, want) {
				t.Errorf("%s: got message %q, want %q in it", name, got.Message, want)
			}
		}
	}
	secret("later", right)
	c.WaitRunning(t, bottles["later"])
	wantDigest(t, bottles["later"], digest)

	events, _ := c.Kubectl(nil, "-n", ns, "get", "events", "-o", "json")
	status, _ := c.Kubectl(nil, "-n", ns, "get", "bottles", "-o", "json")
	for place, text := range map[string]string{"events": events, "bottles": status, "agent's log": c.AgentLog(t, node1)} {
		if !strings.Contains(text, ns) {
			t.Errorf("%s: got no content about %s to check", place, ns)
		}
		for _, h := range append(hidden, more...) {
			if strings.Contains(text, h) {
				t.Errorf("%s: contains credentials", place)
			}
		}
	}
}

func TestMovedTag(t *testing.T) {
	t.Parallel()
	c := connect(t)
	ns := c.Namespace(t)
	first := c.PushGuest(t, node1, ns+"/moves:1")
	a := fromRegistry(ns, "before", ns+"/moves:1")
	c.Apply(t, a)
	c.WaitRunning(t, a)
	second := c.PushGuest(t, node1, ns+"/moves:1")
	if first == second {
		t.Fatalf("both images are %s, want two", first)
	}
	present, always := fromRegistry(ns, "present", ns+"/moves:1"), fromRegistry(ns, "always", ns+"/moves:1")
	present.Spec.ImagePullPolicy, always.Spec.ImagePullPolicy = ptr(v1alpha1.PullPolicy("IfNotPresent")), ptr(v1alpha1.PullPolicy("Always"))
	c.Apply(t, present)
	c.WaitRunning(t, present)
	c.Apply(t, always)
	c.WaitRunning(t, always)
	wantDigest(t, a, first)
	wantDigest(t, present, first)
	wantDigest(t, always, second)
}

func TestRegistryFailsDuringBlob(t *testing.T) {
	c := connect(t)
	ns := c.Namespace(t)
	digest := c.PushGuest(t, node1, ns+"/dies:1")
	c.BreakRegistry(t, `{"path": "/`+ns+`/dies/", "cut_after_bytes": 500000, "times": 2}`)
	b := fromRegistry(ns, "dies", ns+"/dies:1")
	c.Apply(t, b)
	c.WaitRunning(t, b)
	wantDigest(t, b, digest)
	cut, resumed := 0, 0
	for _, r := range story.BlobRequests(c.Requests(t, node1, ns+"/dies")) {
		if r.Fault == "cut" {
			cut++
		}
		if r.Status == 206 {
			resumed++
		}
	}
	if cut != 2 || resumed != 2 {
		t.Errorf("got %d responses cut off and %d resumed, want 2 and 2", cut, resumed)
	}
}

func TestCorruptedBlobIsNeverUsed(t *testing.T) {
	c := connect(t)
	ns := c.Namespace(t)
	digest := c.PushGuest(t, node1, ns+"/corrupted:1")
	repair := c.BreakRegistry(t, `{"path": "/`+ns+`/corrupted/", "corrupt": 1000000}`)
	b := fromRegistry(ns, "corrupted", ns+"/corrupted:1")
	c.Apply(t, b)
	cond := c.WaitReason(t, b, v1alpha1.ConditionMachineReady, v1alpha1.ReasonImagePullBackOff)
	if !strings.Contains(cond.Message, "sha256") {
		t.Errorf("message: got %q, want the mismatched digest", cond.Message)
	}
	if r := c.TryExec(t, node1, "smolvm", "machine", "ls", "--json"); strings.Contains(r.Stdout, story.ID(b)) {
		t.Errorf("machines: got %s, want none of a corrupted image", r.Stdout)
	}
	repair()
	c.WaitRunning(t, b)
	wantDigest(t, b, digest)
}

// platforms returns an index with a different image for each architecture, and the
// images' manifests.
func platforms(t *testing.T, c *story.Cluster, architectures ...string) (idx v1.ImageIndex, byArchitecture map[string]*v1.Manifest) {
	t.Helper()
	idx, byArchitecture = empty.Index, map[string]*v1.Manifest{}
	for _, architecture := range architectures {
		img := c.NewGuest(t)
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		config = config.DeepCopy()
		config.Architecture = architecture
		if img, err = mutate.ConfigFile(img, config); err != nil {
			t.Fatal(err)
		}
		if byArchitecture[architecture], err = img.Manifest(); err != nil {
			t.Fatal(err)
		}
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "linux", Architecture: architecture}}})
	}
	return idx, byArchitecture
}

func TestImageForSeveralPlatforms(t *testing.T) {
	t.Parallel()
	c := connect(t)
	ns := c.Namespace(t)
	own := runtime.GOARCH // the nodes are on this machine
	idx, manifests := platforms(t, c, "riscv64", "s390x", own)
	top := c.PushImage(t, node1, ns+"/several:1", idx)
	b := fromRegistry(ns, "several", ns+"/several:1")
	c.Apply(t, b)
	c.WaitRunning(t, b)
	index, err := idx.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	wantDigest(t, b, index.Manifests[2].Digest.String())
	if *b.Status.Image.Digest == top {
		t.Errorf("digest: got the index's, %s, want the image's", top)
	}
	want := []string{manifests[own].Config.Digest.String()}
	for _, l := range manifests[own].Layers {
		want = append(want, l.Digest.String())
	}
	var got []string
	for _, r := range story.BlobRequests(c.Requests(t, node1, ns+"/several")) {
		got = append(got, path.Base(r.Path))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("blobs requested: got %v, want only those of the node's platform: %v", got, want)
	}
}

func TestImageForOtherPlatformsOnly(t *testing.T) {
	t.Parallel()
	c := connect(t)
	ns := c.Namespace(t)
	idx, _ := platforms(t, c, "riscv64", "s390x")
	digest := c.PushImage(t, node1, ns+"/others:1", idx)
	b := fromRegistry(ns, "others", ns+"/others:1")
	c.Apply(t, b)
	wantPullError(t, c, b, "no image for linux/"+runtime.GOARCH, "only for linux/riscv64, linux/s390x")
	if got := story.BlobRequests(c.Requests(t, node1, ns+"/others")); len(got) != 0 {
		t.Errorf("blobs requested: got %+v, want none", got)
	}
	wantNoImage(t, c, b, digest)
}
