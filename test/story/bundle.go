// SPDX-License-Identifier: Apache-2.0

package story

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// OnPods reports whether the bundles of the cluster are containers of the Bottles' Pods.
// Otherwise they are containers of each node's Docker Engine.
func (c *Cluster) OnPods(t testing.TB) bool {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(c.Dir, "bundle-runtime"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(content)) == "pod"
}

// Sandbox is what the container runtime of b's node knows about b's Pod.
type Sandbox struct {
	ID        string
	Pod       string // its name
	Pause     string // the process that holds the namespaces
	NetNS     string // the file of the network namespace
	Container string // the bundle, if it runs
	Bundle    string // its process
}

// inspectPod prints the fields of a Sandbox, each on a line of its own.
const inspectPod = `
pod=$(crictl pods -q --state ready --label botbottle.dev/uid="$1")
[ -n "$pod" ] || exit 0
echo "$pod"
crictl inspectp -o go-template --template '{{.status.metadata.name}}
{{.info.pid}}
{{range .info.runtimeSpec.linux.namespaces}}{{if eq .type "network"}}{{.path}}{{end}}{{end}}' "$pod"
echo
container=$(crictl ps -q --state running --name '^bundle$' --pod "$pod")
[ -n "$container" ] || exit 0
echo "$container"
crictl inspect -o go-template --template '{{.info.pid}}' "$container"
`

// TrySandbox returns the sandbox of b's Pod, or false if none is ready.
func (c *Cluster) TrySandbox(t testing.TB, b *v1alpha1.Bottle) (Sandbox, bool) {
	t.Helper()
	r := c.TryExec(t, NodeOf(b), "sh", "-ec", inspectPod, "sh", string(b.UID))
	fields := append(strings.Fields(r.Stdout), make([]string, 6)...)
	s := Sandbox{fields[0], fields[1], fields[2], fields[3], fields[4], fields[5]}
	if r.Code != 0 {
		t.Logf("inspect the Pod of Bottle %s: exit code %d\n%s", b.Name, r.Code, r.Stderr)
	}
	return s, r.Code == 0 && s.NetNS != ""
}

// Sandbox returns the sandbox of b's Pod, in which the bundle runs.
func (c *Cluster) Sandbox(t testing.TB, b *v1alpha1.Bottle) (s Sandbox) {
	t.Helper()
	c.Eventually(t, "the bundle of Bottle "+b.Name+" to run in its Pod", func() (string, bool) {
		var ok bool
		s, ok = c.TrySandbox(t, b)
		return strings.Join([]string{s.ID, s.Pod, s.NetNS, s.Bundle}, " "), ok && s.Bundle != ""
	})
	return s
}

// BundlePID returns the process of b's bundle on its node.
func (c *Cluster) BundlePID(t testing.TB, b *v1alpha1.Bottle) string {
	t.Helper()
	if c.OnPods(t) {
		return c.Sandbox(t, b).Bundle
	}
	return strings.TrimSpace(c.Exec(t, NodeOf(b), "docker", "inspect", "-f", "{{.State.Pid}}", ID(b)))
}

// BesideWall returns the command that enters the network namespace in which b's bundle is
// connected to the wall. With Docker, that is the node's own, and no command is needed.
func (c *Cluster) BesideWall(t testing.TB, b *v1alpha1.Bottle) []string {
	t.Helper()
	if c.OnPods(t) {
		return []string{"nsenter", "--net=" + c.Sandbox(t, b).NetNS}
	}
	return nil
}

// BundleLog returns what b's bundle has logged since it started.
func (c *Cluster) BundleLog(t testing.TB, b *v1alpha1.Bottle) string {
	t.Helper()
	if !c.OnPods(t) {
		return c.Exec(t, NodeOf(b), "sh", "-c", `docker logs "$1" 2>&1`, "sh", ID(b))
	}
	out, err := c.Kubectl(nil, "-n", b.Namespace, "logs", c.Sandbox(t, b).Pod, "-c", "bundle")
	if err != nil {
		t.Fatal(err)
	}
	return out
}
