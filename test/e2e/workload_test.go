// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/kstatus"
	"botbottle.dev/bottle-operator/test/story"
)

// job returns a Bottle with this workload.
func job(ns, name string, policy v1alpha1.RestartPolicy, command ...string) *v1alpha1.Bottle {
	b := builders.MakeBottle(name).Namespace(ns).Slug(name).Command(command...).Obj()
	b.Spec.RestartPolicy = policy
	return b
}

// waitFinished waits until b has finished, and checks how.
func waitFinished(t *testing.T, c *story.Cluster, b *v1alpha1.Bottle, reason string) {
	t.Helper()
	c.WaitReason(t, b, v1alpha1.ConditionFinished, reason)
	c.WaitReason(t, b, v1alpha1.ConditionReady, reason)
	kstatus.Require(t, b)
	if b.Status.StartTime == nil {
		t.Errorf("%s: got no startTime", b.Name)
	}
	if got := meta.IsStatusConditionTrue(b.Status.Conditions, v1alpha1.ConditionReady); got != (reason == v1alpha1.ReasonCompleted) {
		t.Errorf("%s: got Ready=%v with reason %s", b.Name, got, reason)
	}
	node := story.NodeOf(b)
	if got := c.Exec(t, node, "smolvm", "machine", "status", "--name", story.ID(b), "--json"); !strings.Contains(got, `"stopped"`) {
		t.Errorf("%s: got the machine %s, want it stopped", b.Name, got)
	}
	if got := c.Exec(t, node, "sh", "-c", `ip netns list | grep -w "$1" || [ $? = 1 ]`, "sh", story.ID(b)); got != "" {
		t.Errorf("%s: got the wall %s, want it removed", b.Name, got)
	}
}

func TestWorkloadsEnd(t *testing.T) {
	t.Parallel()
	c := connect(t)
	ns := c.Namespace(t)
	const fill = `dd if=/dev/zero of=/run/bottle/out/report.json bs=1M count=50; dd if=/dev/zero of=/run/bottle/out/x bs=1M count=50
i=0; while [ $i -lt 200 ]; do echo >/run/bottle/out/$i; mkdir /run/bottle/out/d$i; i=$((i+1)); done; exit 42`
	tests := []struct {
		b           *v1alpha1.Bottle
		reason, end string
	}{
		{job(ns, "ok", v1alpha1.RestartOnFailure, "sh", "-c", "exit 0"), v1alpha1.ReasonCompleted, "0"},
		{job(ns, "bad", v1alpha1.RestartNever, "sh", "-c", "echo out; echo err >&2; exit 42"), v1alpha1.ReasonFailed, "42"},
		{job(ns, "absent", v1alpha1.RestartNever, "no-such-command"), v1alpha1.ReasonFailed, "127"},
		{job(ns, "killed", v1alpha1.RestartNever, "sh", "-c", "kill -9 $$"), v1alpha1.ReasonFailed, "SIGKILL"},
		{job(ns, "fills", v1alpha1.RestartNever, "sh", "-c", fill), v1alpha1.ReasonFailed, "42"},
	}
	for _, tt := range tests {
		c.Apply(t, tt.b)
	}
	for _, tt := range tests {
		waitFinished(t, c, tt.b, tt.reason)
		if d := cmp.Diff(tt.end, story.EndOf(tt.b)); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.b.Name, d)
		}
	}
	bad := tests[1].b
	if out, err := c.Kubectl(nil, "-n", ns, "events", "--for", "bottle/bad"); err != nil || !strings.Contains(out, "exit code 42") {
		t.Errorf("events: got %s, %v, want one with the exit code", out, err)
	}

	// A finished Bottle runs again on request, with its old disk.
	first := bad.Status.StartTime.DeepCopy()
	c.Change(t, bad, func() { metav1.SetMetaDataAnnotation(&bad.ObjectMeta, v1alpha1.AnnotationRestartedAt, "again") })
	c.WaitFor(t, bad, "to finish a second time", func() bool {
		return meta.IsStatusConditionTrue(bad.Status.Conditions, v1alpha1.ConditionFinished) && first.Before(bad.Status.StartTime)
	})
	waitFinished(t, c, bad, v1alpha1.ReasonFailed)

	for _, tt := range tests {
		node := story.NodeOf(tt.b)
		c.DeleteAndWait(t, tt.b)
		wantNothingLeft(t, c, node, tt.b)
	}
}

func TestAWorkloadThatAlwaysEnds(t *testing.T) {
	t.Parallel()
	c := connect(t)
	b := job(c.Namespace(t), "again", v1alpha1.RestartAlways, "sh", "-c", "exit 3")
	c.Apply(t, b)
	c.WaitFor(t, b, "to report a pause", func() bool {
		w := b.Status.Workload
		return w != nil && w.NextStartTime != nil && story.EndOf(b) == "3"
	})
	c.WaitRunning(t, b)
	// The policy is live: the next end is the last one.
	c.Change(t, b, func() { b.Spec.RestartPolicy = v1alpha1.RestartNever })
	waitFinished(t, c, b, v1alpha1.ReasonFailed)
	if w := b.Status.Workload; w.Restarts == nil || *w.Restarts < 1 || w.NextStartTime != nil {
		t.Errorf("workload: got %+v, want at least one restart and no pause", w)
	}
}

func TestADeadlineEndsTheWorkload(t *testing.T) {
	t.Parallel()
	c := connect(t)
	b := job(c.Namespace(t), "late", v1alpha1.RestartAlways, "sh", "-c", "trap 'exit 7' TERM; while :; do sleep 1; done")
	b.Spec.Lifetime = &v1alpha1.Lifetime{ActiveDeadlineSeconds: ptr(int64(15))}
	c.Apply(t, b)
	waitFinished(t, c, b, v1alpha1.ReasonDeadlineExceeded)
	if got := story.EndOf(b); got != "7" {
		t.Errorf("workload: got %s, want 7, because it got SIGTERM first", got)
	}
}

// This test runs alone, because it stops the node's agent.
func TestAWorkloadThatEndsWithoutTheAgent(t *testing.T) {
	c := connect(t)
	b := job(c.Namespace(t), "alone", v1alpha1.RestartNever, "sh", "-c", "until [ -e /go ]; do sleep 0.2; done; exit 42")
	b.Spec.NodeName = ptr(node2)
	c.Apply(t, b)
	c.WaitRunning(t, b)
	c.Run(t, "agent-stop", node2)
	t.Cleanup(func() { c.Run(t, "agent-start", node2) })
	c.Guest(t, b, "touch", "/go")
	c.Guest(t, b, "sleep", "2")
	c.Run(t, "agent-start", node2)
	waitFinished(t, c, b, v1alpha1.ReasonFailed)
	if got := story.EndOf(b); got != "42" {
		t.Errorf("workload: got %s, want 42", got)
	}
}
