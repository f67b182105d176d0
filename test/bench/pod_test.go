// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/story"
)

// BenchmarkPods measures Bottles whose bundles run in Pods, on a node with a real kubelet
// and a Docker Engine: beside Bottles whose bundles run on docker, and beside a Pod and a
// machine without the operator.
func BenchmarkPods(b *testing.B) {
	c := connect(b)
	if kind, err := os.ReadFile(filepath.Join(c.Dir, "kubelet")); err != nil || strings.TrimSpace(string(kind)) != "real" {
		b.Skip("needs a node with a real kubelet")
	}
	const n = 3
	ns := c.Namespace(b)
	// The first Bottle of a cluster waits until the operator is protected from removal.
	other := bottle(c.Namespace(b), "other")
	other.Spec.DesiredState = v1alpha1.DesiredStateStopped
	if err := c.Create(b.Context(), other); err != nil {
		b.Fatal(err)
	}
	onDocker := measureBottles(b, c, ns, "docker", n)
	bareWhole, bareParts := measureBare(b, c, guestArchive, n)
	setRuntime(b, c, "pod")
	onPods := measureBottles(b, c, ns, "pod", n)
	barePods := measureBarePods(b, c, ns, onPods.spec, n)

	var bareMachines []time.Duration
	for i := range n {
		bareMachines = append(bareMachines, bareParts[2][i]+bareParts[3][i])
	}
	bare := percentile(barePods, 50) + percentile(bareMachines, 50)
	report(row{What: "bundle in a Pod: create → Ready, ratio to a bare Pod and a bare machine", Value: ms(percentile(onPods.ready, 50)) / ms(bare), Unit: "ratio", Goal: "<= 1.2"})
	report(row{What: "  the same without the proof: create → MachineReady", Value: ms(percentile(onPods.running, 50)) / ms(bare), Unit: "ratio"})
	report(row{What: "bundle in a Pod: create → Ready, p50", Value: ms(percentile(onPods.ready, 50)), Unit: "ms", Spread: spread(onPods.ready)})
	report(row{What: "bundle on docker: create → Ready, p50", Value: ms(percentile(onDocker.ready, 50)), Unit: "ms", Spread: spread(onDocker.ready)})
	report(row{What: "  bare Pod of the same image: create → Ready, p50", Value: ms(percentile(barePods, 50)), Unit: "ms", Spread: spread(barePods)})
	report(row{What: "  bare machine: create and start, p50", Value: ms(percentile(bareMachines, 50)), Unit: "ms", Spread: spread(bareMachines)})
	report(row{What: "  bare, on docker: all four commands, p50", Value: ms(percentile(bareWhole, 50)), Unit: "ms", Spread: spread(bareWhole)})
	report(row{What: "bundle in a Pod: API writes per Bottle until it runs", Value: float64(onPods.writes) / n, Unit: "writes", Goal: "<= 7"})
	report(row{What: "bundle in a Pod: agent RSS", Value: agentRSSOnNode(b, c), Unit: "MiB"})
}

// measured is what measureBottles found out.
type measured struct {
	// running and ready are how long each Bottle took to be MachineReady and Ready.
	running, ready []time.Duration
	// spec is what a Pod of these Bottles looks like.
	spec corev1.PodSpec
	// writes is the number of API writes.
	writes int
}

// measureBottles creates n Bottles, one after another. Another Bottle comes first: the agent
// pulls the image for it.
func measureBottles(b *testing.B, c *story.Cluster, ns, name string, n int) (m measured) {
	b.Helper()
	for i := range n + 1 {
		before := auditWritesIn(b, c, ns)
		one := bottle(ns, fmt.Sprintf("%s-%d", name, i))
		seen := create(b, c, ns, one)[one.Name]
		settle()
		if i > 0 {
			m.running, m.ready = append(m.running, seen[v1alpha1.ConditionMachineReady]), append(m.ready, seen[v1alpha1.ConditionReady])
			m.writes += auditWritesIn(b, c, ns) - before
		}
		pods := &corev1.PodList{}
		if err := c.List(b.Context(), pods, client.InNamespace(ns), client.HasLabels{v1alpha1.LabelUID}); err != nil || len(pods.Items) != 1 {
			b.Fatalf("Pods of Bottle %s: got %d, %v, want one", one.Name, len(pods.Items), err)
		}
		m.spec = pods.Items[0].Spec
		c.DeleteAndWait(b, one)
		settle() // the Pod goes after its Bottle
	}
	return m
}

// measureBarePods creates n Pods that are like those of Bottles, one after another, and
// returns how long each took to be Ready.
func measureBarePods(b *testing.B, c *story.Cluster, ns string, spec corev1.PodSpec, n int) (times []time.Duration) {
	b.Helper()
	spec.TerminationGracePeriodSeconds = new(int64)
	for i := range spec.Containers {
		delete(spec.Containers[i].Resources.Requests, v1alpha1.ResourceBottle)
		delete(spec.Containers[i].Resources.Limits, v1alpha1.ResourceBottle)
	}
	for i := range n {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("bare-%d", i)}, Spec: *spec.DeepCopy()}
		w, err := c.Watch(b.Context(), &corev1.PodList{}, client.InNamespace(ns))
		if err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		if err := c.Create(b.Context(), pod); err != nil {
			b.Fatal(err)
		}
		times = append(times, awaitPod(b, c, w, pod.Name).Sub(start))
		w.Stop()
		if err := c.Delete(b.Context(), pod); err != nil {
			b.Fatal(err)
		}
	}
	return times
}

// awaitPod returns when the Pod of this name was first seen Ready.
func awaitPod(b *testing.B, c *story.Cluster, w watch.Interface, name string) time.Time {
	b.Helper()
	limit := time.After(c.Timeout)
	for {
		select {
		case <-limit:
			b.Fatalf("Pod %s was not ready within %s", name, c.Timeout)
		case event, ok := <-w.ResultChan():
			if !ok {
				b.Fatal("the watch ended")
			}
			pod, ok := event.Object.(*corev1.Pod)
			if !ok || pod.Name != name {
				continue
			}
			for _, cond := range pod.Status.Conditions {
				if cond.Type == corev1.PodReady && cond.Status == corev1.ConditionTrue {
					return time.Now()
				}
			}
		}
	}
}

// setRuntime upgrades the chart so that new Bottles have their bundles on this runtime.
func setRuntime(b *testing.B, c *story.Cluster, runtime string) {
	b.Helper()
	values, err := os.ReadFile(filepath.Join(c.Dir, "values.yaml"))
	if err != nil {
		b.Fatal(err)
	}
	const flag = "--bundle-runtime="
	changed := bytes.ReplaceAll(values, []byte(flag+"docker"), []byte(flag+runtime))
	if bytes.Equal(changed, values) {
		b.Fatalf("the values of the chart do not have %sdocker: make dev-up KUBELET=real BUNDLE_RUNTIME=docker", flag)
	}
	cmd := exec.Command(filepath.Join(filepath.Dir(c.Dir), "helm"), "upgrade", "bottle-operator", "../../charts/bottle-operator",
		"--kubeconfig", c.Kubeconfig, "--namespace", c.SystemNamespace(b), "--values", "-")
	cmd.Stdin = bytes.NewReader(changed)
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("helm upgrade: %v\n%s", err, out)
	}
	if _, err := c.Kubectl(nil, "-n", c.SystemNamespace(b), "rollout", "status", "daemonset/bottle-agent", "--timeout", c.Timeout.String()); err != nil {
		b.Fatal(err)
	}
}

// agentRSSOnNode is agentRSS for an agent that runs on the node, not on this machine.
func agentRSSOnNode(b *testing.B, c *story.Cluster) float64 {
	b.Helper()
	out := c.Exec(b, node, "sh", "-c", `grep -h VmRSS "/proc/$(pgrep -o -f '[b]ottle-operator agent ')/status"`)
	var kib float64
	if _, err := fmt.Sscanf(out, "VmRSS: %f kB", &kib); err != nil {
		b.Fatalf("memory of the agent: got %q: %v", out, err)
	}
	return kib / 1024
}
