// SPDX-License-Identifier: Apache-2.0

package story

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// module is this module's path.
const module = "botbottle.dev/bottle-operator"

var building sync.Mutex

// Program builds a program of this module and returns its path. It has no dependencies.
func (c *Cluster) Program(t testing.TB, pkg string) string {
	t.Helper()
	building.Lock()
	defer building.Unlock()
	path := filepath.Join(c.Dir, "program-"+filepath.Base(pkg))
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, module+"/"+pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	return path
}

// ExecInput runs a command on a node with input and returns its output. The command must
// succeed.
func (c *Cluster) ExecInput(t testing.TB, node string, input []byte, argv ...string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(c.Dir, "exec"), append([]string{node}, argv...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("on %s: %v: %v\n%s%s", node, argv, err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

// Send copies a local program to a node.
func (c *Cluster) Send(t testing.TB, node, local, remote string) {
	t.Helper()
	content, err := os.ReadFile(local)
	if err != nil {
		t.Fatal(err)
	}
	c.ExecInput(t, node, content, "sh", "-c", `cat >"$1.new" && chmod 755 "$1.new" && mv "$1.new" "$1"`, "sh", remote)
}

// SendToGuest builds a program of this module and copies it to a path in b's guest.
func (c *Cluster) SendToGuest(t testing.TB, b *v1alpha1.Bottle, pkg, remote string) {
	t.Helper()
	onNode := "/run/program-" + strings.ReplaceAll(pkg, "/", "-") + "-" + string(b.UID)
	c.Send(t, NodeOf(b), c.Program(t, pkg), onNode)
	defer c.Exec(t, NodeOf(b), "rm", onNode)
	c.Exec(t, NodeOf(b), "smolvm", "machine", "cp", onNode, ID(b)+":"+remote)
	c.Guest(t, b, "chmod", "755", remote)
}

// ExecInGuest runs a command with "kubectl bottle exec", and so with the environment that
// programs of the guest have. The command must succeed.
func (c *Cluster) ExecInGuest(t testing.TB, b *v1alpha1.Bottle, argv ...string) string {
	t.Helper()
	r := c.Bottle(t, nil, append([]string{"exec", "-n", b.Namespace, b.Name, "--"}, argv...)...)
	if r.Code != 0 {
		t.Fatalf("kubectl bottle exec %s -- %v: exit code %d\n%s%s", b.Name, argv, r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// StartInGuest starts a command that runs until its guest ends, and returns the path of
// its output in the guest.
func (c *Cluster) StartInGuest(t testing.TB, b *v1alpha1.Bottle, name, command string) (output string) {
	t.Helper()
	output = "/root/" + name + ".log"
	c.ExecInGuest(t, b, "sh", "-c", "cd /root && { setsid "+command+" </dev/null >"+output+" 2>&1 & }")
	return output
}
