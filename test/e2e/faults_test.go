// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/story"
)

// faults injects faults into a node's stand-in for smolvm.
func faults(t *testing.T, c *story.Cluster, node, json string) {
	t.Helper()
	const dir = "/var/lib/bottle/smolvm/.standin"
	c.Exec(t, node, "sh", "-c", fmt.Sprintf("mkdir -p %s && printf '%%s' '%s' > %s/faults.json", dir, json, dir))
	t.Cleanup(func() { c.Exec(t, node, "rm", "-f", dir+"/faults.json") })
}

func TestBootFailuresAreReportedAndRetried(t *testing.T) {
	c := connect(t)
	faults(t, c, node2, `{"boot_failures":2}`)
	b := bottleOn(node2, c.Namespace(t), "boot", "boot")
	c.Apply(t, b)
	c.WaitReason(t, b, v1alpha1.ConditionMachineReady, v1alpha1.ReasonBootFailed)
	c.WaitRunning(t, b)
}

func TestMissingSmolvmFileIsReported(t *testing.T) {
	c := connect(t)
	ns := c.Namespace(t)
	b := bottleOn(node2, ns, "files", "files")
	b.Spec.DesiredState = v1alpha1.DesiredStateRunning
	hidden := "/var/lib/bottle/kernel-hidden"
	c.Apply(t, b)
	c.WaitRunning(t, b)
	c.Exec(t, node2, "sh", "-c", "mkdir -p "+hidden+" && mount --bind "+hidden+" /opt/smolvm/lib")
	t.Cleanup(func() { c.TryExec(t, node2, "umount", "/opt/smolvm/lib") })
	c.Eventually(t, "the node to offer no capacity for Bottles", func() (string, bool) {
		return offered(nodeOf(t, c, node2))
	})
	if _, ready := nodeOf(t, c, node2).Labels[v1alpha1.LabelAgent]; ready {
		t.Errorf("label %s of a node that cannot run Bottles: got it, want none", v1alpha1.LabelAgent)
	}
	c.Exec(t, node2, "smolvm", "machine", "stop", "--name", story.ID(b))
	cond := c.WaitReason(t, b, v1alpha1.ConditionMachineReady, v1alpha1.ReasonNodeNotReady)
	if !strings.Contains(cond.Message, "libkrun") {
		t.Errorf("message: got %q, want the missing file named", cond.Message)
	}
	c.Exec(t, node2, "umount", "/opt/smolvm/lib")
	c.WaitRunning(t, b)
	c.Eventually(t, "the node to offer capacity for Bottles again", func() (string, bool) {
		n := nodeOf(t, c, node2)
		got := n.Status.Allocatable[v1alpha1.ResourceBottle]
		return got.String(), !got.IsZero() && n.Labels[v1alpha1.LabelAgent] == v1alpha1.LabelAgentReady
	})
}

func TestDockerOutageIsReportedAndRecovers(t *testing.T) {
	c := connect(t)
	ns := c.Namespace(t)
	b := bottleOn(node2, ns, "docker", "docker")
	c.Apply(t, b)
	c.WaitRunning(t, b)
	c.Run(t, "docker-stop", node2)
	t.Cleanup(func() { c.Run(t, "docker-start", node2) })
	cond := c.WaitReason(t, b, v1alpha1.ConditionNetworkReady, v1alpha1.ReasonDockerUnavailable)
	out, _ := c.Kubectl(nil, "-n", ns, "describe", "bottle", "docker")
	if !strings.Contains(out, v1alpha1.ReasonDockerUnavailable) {
		t.Errorf("kubectl describe with docker down: got\n%s\nwant %s (%s)", out, v1alpha1.ReasonDockerUnavailable, cond.Message)
	}
	c.Run(t, "docker-start", node2)
	c.WaitRunning(t, b)
	c.DeleteAndWait(t, b)
	wantNothingLeft(t, c, node2, b)
}
