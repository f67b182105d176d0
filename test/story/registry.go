// SPDX-License-Identifier: Apache-2.0

package story

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
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

// RegistryHost is the image registry on the nodes' LAN.
const RegistryHost = "10.77.0.1:5000"

// Request is a request that the registry received.
type Request struct {
	Remote, User, Method, Path, Range, Fault string
	Status                                   int
}

// PushGuest pushes a new guest image as REPOSITORY:TAG and returns its digest.
func (c *Cluster) PushGuest(t testing.TB, node, repositoryTag string) string {
	t.Helper()
	return c.PushImage(t, node, repositoryTag, c.NewGuest(t))
}

// NewGuest returns the default guest image with one more layer of random bytes, so
// that no node has the image yet.
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

// Requests returns the requests for a repository in the order in which they ended.
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

// BlobRequests returns the requests for blobs.
func BlobRequests(requests []Request) (out []Request) {
	for _, r := range requests {
		if r.Method == "GET" && strings.Contains(r.Path, "/blobs/") {
			out = append(out, r)
		}
	}
	return out
}

// WantPulledByNode checks that all requests came from the node's address.
func (c *Cluster) WantPulledByNode(t testing.TB, node string, requests []Request) {
	t.Helper()
	own := strings.Fields(c.Exec(t, node, "ip", "-4", "-br", "addr", "show", "dev", "world0"))
	for _, r := range requests {
		if !slices.Contains(own, r.Remote+"/24") {
			t.Errorf("%s %s: got it from %s, want it from the node (%v) only", r.Method, r.Path, r.Remote, own)
		}
	}
}

// registryInSet is how nft lists the registry among the destinations of packets
// that a wall dropped.
const registryInSet = "10.77.0.1 . tcp . 5000"

// MachineDialledRegistry reports whether, in the last five minutes, the wall of b
// dropped packets that its machine sent to the registry.
func (c *Cluster) MachineDialledRegistry(t testing.TB, b *v1alpha1.Bottle) bool {
	t.Helper()
	return strings.Contains(c.Exec(t, NodeOf(b), "nft", "list", "set", "netdev", "bottle-"+string(b.UID)[:8], "ip4"), registryInSet)
}

// WantDialToRegistrySeen dials the registry from the namespace of b's machine, in a
// way that is not open to a guest, until the wall has observed it. A proof that ends
// meanwhile makes the wall forget what it dropped. b cannot be used afterwards.
func (c *Cluster) WantDialToRegistrySeen(t testing.TB, b *v1alpha1.Bottle) {
	t.Helper()
	c.Eventually(t, "the wall of "+b.Name+" to observe a dial to the registry", func() (string, bool) {
		dial := c.TryExec(t, NodeOf(b), "sh", "-c", `
			ip -n "$1" neigh replace "$2" lladdr 02:00:00:00:00:01 dev bundle0
			ip -n "$1" route replace 10.77.0.1 via "$2"
			nsenter --net="/run/netns/$1" nc -w 1 10.77.0.1 5000`, "sh", ID(b), b.Status.Network.Gateway)
		return fmt.Sprintf("dialled, and the wall did not observe it (exit code %d, %s)", dial.Code, dial.Stderr), c.MachineDialledRegistry(t, b)
	})
}

// BreakRegistry injects faults into the cluster's registry until repair is called or
// the test ends. faults is JSON (see hack/dev/registry). The cluster must run on
// this machine.
func (c *Cluster) BreakRegistry(t testing.TB, faults string) (repair func()) {
	t.Helper()
	path := filepath.Join(c.Dir, "registry", "faults.json")
	if err := os.WriteFile(path+".new", []byte(faults), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	repair = func() { _ = os.Remove(path) }
	t.Cleanup(repair)
	return repair
}

// RegistryPassword returns the password of the registry's user "bottle". The
// cluster must run on this machine.
func (c *Cluster) RegistryPassword(t testing.TB) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(c.Dir, "registry", "password"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(content))
}

// DockerConfig returns the content of a pull secret, and the strings in it that
// must stay secret.
func DockerConfig(password string) (content []byte, secrets []string) {
	auth := base64.StdEncoding.EncodeToString([]byte("bottle:" + password))
	content, _ = json.Marshal(map[string]any{"auths": map[string]any{RegistryHost: map[string]string{"auth": auth}}})
	return content, []string{password, auth}
}
