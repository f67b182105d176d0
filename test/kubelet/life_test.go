// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/test/helm"
)

const (
	// chart is the name of the release that make dev-up KUBELET=real installs.
	chart = "bottle-operator"
	// installedTag is the tag of its image, and otherTag another one of the same image.
	installedTag, otherTag = "dev", "other"
)

// helm runs Helm for the cluster and the operator's namespace.
func (w *world) helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	args = append([]string{"--kubeconfig", w.Kubeconfig, "--namespace", w.system}, args...)
	return helm.Run(t.Context(), filepath.Join(filepath.Dir(w.Dir), "helm"), args...)
}

func (w *world) mustHelm(t *testing.T, args ...string) string {
	t.Helper()
	out, err := w.helm(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (w *world) wantInstalled(t *testing.T) {
	var releases []struct{ Name, Status string }
	if err := json.Unmarshal([]byte(w.mustHelm(t, "list", "--output", "json")), &releases); err != nil {
		t.Fatal(err)
	}
	if len(releases) != 1 || releases[0].Name != chart || releases[0].Status != "deployed" {
		t.Fatalf("releases: got %+v, want %s deployed", releases, chart)
	}
	for component, want := range map[string]int{"manager": 2, "agent": 1} {
		pods := w.operatorPods(t, component)
		if len(pods) != want {
			t.Errorf("Pods of the %s: got %d, want %d", component, len(pods), want)
		}
		for _, pod := range pods {
			if !ready(&pod) || pod.Spec.NodeName != node {
				t.Errorf("Pod %s on %q: got %s, want it ready on %s", pod.Name, pod.Spec.NodeName, pod.Status.Phase, node)
			}
		}
	}
}

// operatorPods returns the Pods of a component that are not being deleted.
func (w *world) operatorPods(t *testing.T, component string) (pods []corev1.Pod) {
	t.Helper()
	list := &corev1.PodList{}
	if err := w.List(t.Context(), list, client.InNamespace(w.system), client.MatchingLabels{"app.kubernetes.io/component": component}); err != nil {
		t.Fatal(err)
	}
	for _, pod := range list.Items {
		if pod.DeletionTimestamp == nil {
			pods = append(pods, pod)
		}
	}
	return pods
}

// deleteAgent deletes the agent's Pod and waits for the next one.
func (w *world) deleteAgent(t *testing.T) {
	old := w.operatorPods(t, "agent")[0]
	if err := w.Delete(t.Context(), &old); err != nil {
		t.Fatal(err)
	}
	w.waitAgent(t, func(pod corev1.Pod) bool { return pod.UID != old.UID })
	w.wantGuardedAgain(t)
}

// waitAgent waits until the only agent is ready and is the one that is meant.
func (w *world) waitAgent(t *testing.T, meant func(corev1.Pod) bool) {
	t.Helper()
	w.Eventually(t, "the agent's Pod to be ready", func() (string, bool) {
		pods := w.operatorPods(t, "agent")
		if len(pods) != 1 {
			return fmt.Sprintf("%d Pods", len(pods)), false
		}
		return fmt.Sprintf("%s %+v", pods[0].Name, pods[0].Status.ContainerStatuses), ready(&pods[0]) && meant(pods[0])
	})
}

// wantGuardedAgain checks that a new agent found the machine as it was, and knows for how
// long nobody had guarded it.
func (w *world) wantGuardedAgain(t *testing.T) {
	t.Helper()
	w.wantMachineKept(t)
	seconds := w.unguarded(t)
	t.Logf("nobody guarded the machine for %.1f s", seconds)
	if seconds <= 0 {
		t.Errorf("time without an agent: got %g s, want more than 0", seconds)
	}
}

// killParts kills the container runtime and the kubelet, as a crash or an upgrade of the
// node's packages does.
func (w *world) killParts(t *testing.T) {
	before := w.operatorPods(t, "agent")[0]
	for _, command := range []string{"part-kill", "part-start"} {
		for _, part := range []string{"containerd", "kubelet"} {
			w.Run(t, command, node, part)
		}
	}
	w.Eventually(t, "the node to be ready", func() (string, bool) {
		n := &corev1.Node{}
		err := w.Get(t.Context(), client.ObjectKey{Name: node}, n)
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady {
				return c.Message, c.Status == corev1.ConditionTrue
			}
		}
		return fmt.Sprint(err), false
	})
	w.waitAgent(t, func(pod corev1.Pod) bool { return pod.UID == before.UID })
	w.wantMachineKept(t)
}

// upgrade gives the image another name on the node, and upgrades the chart to that name.
func (w *world) upgrade(t *testing.T) {
	const ctr = "/opt/kubelet/ctr"
	w.Exec(t, node, ctr, "-n", "k8s.io", "images", "tag", "docker.io/library/bottle-operator:"+installedTag, "docker.io/library/bottle-operator:"+otherTag)
	w.mustHelm(t, "upgrade", chart, w.chartPath(t), "--reuse-values", "--set", "image.tag="+otherTag)
	w.waitRolled(t, otherTag)
}

func (w *world) rollBack(t *testing.T) {
	w.mustHelm(t, "rollback", chart)
	w.waitRolled(t, installedTag)
}

// waitRolled waits until managers and agent run the image with this tag, and checks that
// the machine has not noticed.
func (w *world) waitRolled(t *testing.T, tag string) {
	t.Helper()
	w.mustKubectl(t, "-n", w.system, "rollout", "status", "deployment/bottle-manager", "--timeout", w.Timeout.String())
	w.waitAgent(t, func(pod corev1.Pod) bool { return strings.HasSuffix(pod.Spec.Containers[0].Image, ":"+tag) })
	w.wantGuardedAgain(t)
}

// chartPath returns the chart of this repository.
func (w *world) chartPath(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "charts", chart))
	if err != nil {
		t.Fatal(err)
	}
	return path
}
