// SPDX-License-Identifier: Apache-2.0

package story

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// RegistryHost is the registry of images on the nodes' LAN.
const RegistryHost = "10.77.0.1:5000"

// Request is one that the registry was given.
type Request struct {
	Remote, User, Method, Path, Range, Fault string
	Status                                   int
}

// PushGuest pushes a NewGuest as REPOSITORY:TAG, and returns its digest.
func (c *Cluster) PushGuest(t testing.TB, node, repositoryTag string) string {
	t.Helper()
	return c.PushImage(t, node, repositoryTag, c.NewGuest(t))
}

// NewGuest is the default guest with one more layer, of random bytes, so that
// no node has it yet.
func (c *Cluster) NewGuest(t testing.TB) v1.Image {
	t.Helper()
	guest, err := tarball.ImageFromPath(filepath.Join(filepath.Dir(c.Dir), "images", "guest.tar"), nil)
	if err != nil {
		t.Fatal(err)
	}
	extra, err := random.Layer(1<<20, types.DockerLayer)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(guest, extra)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func (c *Cluster) pushArchive(t testing.TB, node, repositoryTag string, archive io.Reader) string {
	t.Helper()
	return c.feed(t, archive, "image-push", node, repositoryTag)
}

// Requests are those for a repository, in the order in which they ended.
func (c *Cluster) Requests(t testing.TB, node, repository string) []Request {
	t.Helper()
	out, err := exec.Command(filepath.Join(c.Dir, "registry-log"), node).Output()
	if err != nil {
		t.Fatalf("registry-log %s: %v", node, err)
	}
	var found []Request
	for line := range strings.Lines(string(out)) {
		var r Request
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("log of the registry: %v in %q", err, line)
		}
		if r.Remote, _, err = net.SplitHostPort(r.Remote); err != nil {
			t.Fatalf("log of the registry: %v in %q", err, line)
		}
		if strings.HasPrefix(r.Path, "/v2/"+repository+"/") {
			found = append(found, r)
		}
	}
	return found
}

// BlobRequests are those that asked for blobs.
func BlobRequests(requests []Request) (out []Request) {
	for _, r := range requests {
		if r.Method == "GET" && strings.Contains(r.Path, "/blobs/") {
			out = append(out, r)
		}
	}
	return out
}

// PulledByNodeAlone wants requests to bear no address but the node's.
func (c *Cluster) PulledByNodeAlone(t testing.TB, node string, requests []Request) {
	t.Helper()
	own := strings.Fields(c.Exec(t, node, "ip", "-4", "-br", "addr", "show", "dev", "world0"))
	for _, r := range requests {
		if !slices.Contains(own, r.Remote+"/24") {
			t.Errorf("%s %s by %s, want by the node (%v) alone", r.Method, r.Path, r.Remote, own)
		}
	}
}

// registryInSet is how nft shows the registry among a wall's drops.
const registryInSet = "10.77.0.1 . tcp . 5000"

// DialledRegistry says whether the wall of b has dropped, in the last five
// minutes, what its machine sent to the registry.
func (c *Cluster) DialledRegistry(t testing.TB, b *v1alpha1.Bottle) bool {
	t.Helper()
	return strings.Contains(c.Exec(t, NodeOf(b), "nft", "list", "set", "netdev", "bottle-"+string(b.UID)[:8], "ip4"), registryInSet)
}

// DialRegistry dials the registry from the namespace of b's machine, by a way
// that no guest has, and wants the wall to have seen it. b is of no use after.
func (c *Cluster) DialRegistry(t testing.TB, b *v1alpha1.Bottle) {
	t.Helper()
	c.TryExec(t, NodeOf(b), "sh", "-c", `
		ip -n "$1" neigh replace "$2" lladdr 02:00:00:00:00:01 dev bundle0
		ip -n "$1" route replace 10.77.0.1 via "$2"
		nsenter --net="/run/netns/$1" nc -w 1 10.77.0.1 5000`, "sh", ID(b), b.Status.Network.Gateway)
	if !c.DialledRegistry(t, b) {
		t.Errorf("the registry was dialled from the namespace of %s, and the wall did not see it", b.Name)
	}
}

// BreakRegistry has the registry of a cluster on this machine break as the
// JSON says (see hack/dev/registry), until the function that it returns is
// called, or the test ends.
func (c *Cluster) BreakRegistry(t testing.TB, faults string) (mend func()) {
	t.Helper()
	path := filepath.Join(c.Dir, "registry", "faults.json")
	if err := os.WriteFile(path+".new", []byte(faults), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	mend = func() { _ = os.Remove(path) }
	t.Cleanup(mend)
	return mend
}

// RegistryPassword is that of the user bottle, on this machine's clusters.
func (c *Cluster) RegistryPassword(t testing.TB) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(c.Dir, "registry", "password"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(content))
}

// DockerConfig is the content of a pull secret, and what in it nobody may see.
func DockerConfig(password string) (content []byte, secrets []string) {
	auth := base64.StdEncoding.EncodeToString([]byte("bottle:" + password))
	content, _ = json.Marshal(map[string]any{"auths": map[string]any{RegistryHost: map[string]string{"auth": auth}}})
	return content, []string{password, auth}
}
