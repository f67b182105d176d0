// SPDX-License-Identifier: Apache-2.0

package story

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"botbottle.dev/bottle-operator/hack/smolvm/realpack"
)

// Real reports whether the cluster's machines are microVMs rather than stand-ins.
func (c *Cluster) Real(t testing.TB) bool { return c.machines(t) != "standin" }

// Virtual reports that the nodes are emulated machines with files of their own.
func (c *Cluster) Virtual(t testing.TB) bool { return c.machines(t) == "virtual" }

// machines returns the kind of the cluster's nodes: standin, local or virtual.
func (c *Cluster) machines(t testing.TB) string {
	t.Helper()
	kind, err := os.ReadFile(filepath.Join(c.Dir, "machines"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(kind))
}

// PackGuest returns the default guest as an artifact that requests unrestricted
// network access. It does not use the cluster's nodes or its smolvm: only the
// newest stand-in can pack, and the real smolvm would have to boot a machine to
// pack.
func (c *Cluster) PackGuest(t testing.TB) []byte {
	t.Helper()
	bin := filepath.Dir(c.Dir)
	guest, to := filepath.Join(bin, "images", "guest.tar"), filepath.Join(t.TempDir(), "guest")
	if c.Real(t) {
		layer, err := realpack.OnlyLayer(guest)
		if err != nil {
			t.Fatal(err)
		}
		err = realpack.Write(to+".smolmachine", realpack.Pack{
			Env: []string{"PACKED=1", "GREETING=packed"}, Cmd: []string{"/bin/sh", "-c", "sleep 1000000"},
			CPUs: 1, MemoryMiB: 512, Network: true, Layer: layer,
		})
		if err != nil {
			t.Fatal(err)
		}
	} else {
		standin := filepath.Join(bin, "standin", "1.32.2")
		cmd := exec.Command(filepath.Join(standin, "smolvm"), "pack", "create", "--image="+guest, "--output="+to)
		cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH"),
			"SMOLVM_LIB_DIR=" + filepath.Join(standin, "lib"), "SMOLVM_AGENT_ROOTFS=" + filepath.Join(standin, "agent-rootfs")}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("pack create: %v\n%s", err, out)
		}
	}
	packed, err := os.ReadFile(to + ".smolmachine")
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

// SHA256 returns the SHA-256 digest of content in hexadecimal.
func SHA256(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// PutLocal puts a file into the node's local image directory until the test ends.
func (c *Cluster) PutLocal(t testing.TB, node, name string, content []byte) {
	t.Helper()
	path := "/var/lib/bottle-images/" + name
	c.feed(t, bytes.NewReader(content), "exec", node, "sh", "-c", `cat >"$0.new" && mv "$0.new" "$0"`, path)
	t.Cleanup(func() { c.TryExec(t, node, "rm", "-f", path) })
}

// PushArtifact pushes a file to the node's registry in the way that ORAS does.
func (c *Cluster) PushArtifact(t testing.TB, node, repositoryTag string, content []byte) {
	t.Helper()
	const octets = "application/octet-stream"
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), "application/vnd.oci.empty.v1+json")
	artifact, err := mutate.Append(base, mutate.Addendum{
		Layer: static.NewLayer(content, octets), MediaType: octets,
		Annotations: map[string]string{"org.opencontainers.image.title": "guest.smolmachine"},
	})
	if err != nil {
		t.Fatal(err)
	}
	c.PushImage(t, node, repositoryTag, artifact)
}

// feed runs one of the cluster's commands with the given standard input and
// returns its output.
func (c *Cluster) feed(t testing.TB, input io.Reader, command string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(filepath.Join(c.Dir, command), args...)
	cmd.Stdin, cmd.Stderr = input, &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", command, args, err, &stderr)
	}
	return strings.TrimSpace(string(out))
}
