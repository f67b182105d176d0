// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/story"
)

// disturbance is something that happens to the Pod of the kept Bottle.
type disturbance struct {
	name string
	do   func(w *world, t *testing.T, s story.Sandbox)
	// sameMachine, sameSandbox and samePod say what must outlive it.
	sameMachine, sameSandbox, samePod bool
}

var disturbances = []disturbance{
	{"the bundle is killed", func(w *world, t *testing.T, s story.Sandbox) {
		w.Exec(t, node, "kill", "-9", s.Bundle)
	}, true, true, true},
	{"the pause container is killed", func(w *world, t *testing.T, s story.Sandbox) {
		w.Exec(t, node, "kill", "-9", s.Pause)
	}, true, false, true},
	{"the sandbox is stopped", func(w *world, t *testing.T, s story.Sandbox) {
		// The kubelet stops it, too, as soon as the bundle has ended. One of the two may find
		// that its network is gone already.
		r := w.TryExec(t, node, "crictl", "stopp", s.ID)
		t.Logf("crictl stopp: exit code %d %s", r.Code, r.Stderr)
	}, true, false, true},
	{"the Pod is deleted", func(w *world, t *testing.T, s story.Sandbox) {
		w.mustKubectl(t, "-n", w.ns, "delete", "pod", s.Pod, "--wait=false")
	}, false, false, false},
	{"the Pod is force-deleted while the kubelet is down", forceDelete, false, false, false},
	{"the kubelet evicts the Pod, because memory is short", evict, false, false, false},
}

// shortDisturbances returns those for which make test has time.
func shortDisturbances() []disturbance { return disturbances[:1] }

// disturb lets one thing after another happen to the Pod of the kept Bottle. The guest
// dials out all the time. Each time, the Bottle runs again, there was never a second
// machine, and no packet went anywhere but to its bundle.
func (w *world) disturb(t *testing.T, all []disturbance) {
	for _, d := range all {
		t.Run(d.name, func(t *testing.T) { w.disturbOnce(t, d) })
	}
}

func (w *world) disturbOnce(t *testing.T, d disturbance) {
	w.WaitRunning(t, w.kept) // a step before this one may have failed halfway
	before, sandbox := w.identify(t), w.Sandbox(t, w.kept)
	uid, netns := w.podUID(t, sandbox.Pod), w.netnsOf(t, sandbox)
	w.keepDialing(t, w.kept)
	canary := w.startCanary(t, w.kept)
	d.do(w, t, sandbox)
	w.Eventually(t, "another bundle in the Bottle's Pod", func() (string, bool) {
		now, ok := w.TrySandbox(t, w.kept)
		changed := now.ID != sandbox.ID
		if d.sameSandbox {
			changed = now.Container != sandbox.Container
		}
		return fmt.Sprintf("%+v after %+v", now, sandbox), ok && now.Bundle != "" && changed
	})
	after := w.Sandbox(t, w.kept)
	if d.sameSandbox && after.ID != sandbox.ID {
		t.Errorf("sandbox: got %s, want still %s", after.ID, sandbox.ID)
	}
	if got := w.podUID(t, after.Pod); (got == uid) != d.samePod {
		t.Errorf("UID of the Pod: got %s after %s, want the same: %v", got, uid, d.samePod)
	}
	w.WaitRunning(t, w.kept)
	w.wantBothChains(t, w.Sandbox(t, w.kept))
	w.wantBundleReached(t)
	if d.sameMachine {
		w.wantMachineKept(t)
	}
	canary.wantQuiet(t, w.kept)
	w.wantNoPodReachesBundle(t)
	if !d.sameSandbox {
		w.wantSandboxEvent(t)
		w.wantNothingOf(t, sandbox, netns)
	}
	w.before = w.identify(t)
	t.Logf("the machine: %+v after %+v", w.before, before)
}

func (w *world) podUID(t *testing.T, name string) string {
	t.Helper()
	return w.mustKubectl(t, "-n", w.ns, "get", "pod", name, "-o", "jsonpath={.metadata.uid}")
}

// wantSandboxEvent checks that an Event of the Bottle says what happened.
func (w *world) wantSandboxEvent(t *testing.T) {
	t.Helper()
	w.Eventually(t, "an Event about the end of the sandbox", func() (string, bool) {
		events := &corev1.EventList{}
		err := w.List(t.Context(), events, client.InNamespace(w.ns))
		var reasons []string
		for _, e := range events.Items {
			if e.InvolvedObject.UID == w.kept.UID {
				reasons = append(reasons, e.Reason)
			}
		}
		all := strings.Join(reasons, " ")
		for _, reason := range sandboxReasons {
			if strings.Contains(all, reason) {
				return all, true
			}
		}
		return fmt.Sprint(all, err), false
	})
}

// sandboxReasons are the reasons of Events about a sandbox that ended: that it was
// replaced, and that its Pod was.
var sandboxReasons = []string{v1alpha1.ReasonSandboxReplaced, v1alpha1.ReasonEvicted, v1alpha1.ReasonPlaceholderEnded}

// netnsOf returns what identifies the network namespace of a sandbox.
func (w *world) netnsOf(t *testing.T, s story.Sandbox) string {
	t.Helper()
	return "net:[" + strings.TrimSpace(w.Exec(t, node, "stat", "-Lc", "%i", s.NetNS)) + "]"
}

// wantNothingOf checks that no process keeps the network namespace of a sandbox, and that
// no cgroup of it is left.
func (w *world) wantNothingOf(t *testing.T, s story.Sandbox, netns string) {
	t.Helper()
	w.Eventually(t, "nothing of the old sandbox to be left", func() (string, bool) {
		out := w.Exec(t, node, "sh", "-c", `
			find /proc/[0-9]*/ns/net /proc/[0-9]*/fd -lname "$1" 2>/dev/null
			find /sys/fs/cgroup -type d -name "*$2*"
			true`, "sh", strings.NewReplacer("[", `\[`, "]", `\]`).Replace(netns), s.ID)
		return out, strings.TrimSpace(out) == ""
	})
}

// forceDelete deletes the Pod from the API server while no kubelet acts on it. The kubelet
// ends the Pod's machine, at the latest, when it is back.
func forceDelete(w *world, t *testing.T, s story.Sandbox) {
	pid := w.before.pid
	w.Run(t, "part-kill", node, "kubelet")
	t.Cleanup(func() { w.Run(t, "part-start", node, "kubelet") })
	w.mustKubectl(t, "-n", w.ns, "delete", "pod", s.Pod, "--force", "--grace-period=0", "--wait=false")
	w.Eventually(t, "the Pod to be gone from the API server", func() (string, bool) {
		err := w.Get(t.Context(), client.ObjectKey{Namespace: w.ns, Name: s.Pod}, &corev1.Pod{})
		return fmt.Sprint(err), apierrors.IsNotFound(err) || w.podReplaced(t, s.Pod)
	})
	w.Run(t, "part-start", node, "kubelet")
	w.Eventually(t, "the machine of the deleted Pod to be gone", func() (string, bool) {
		return "it runs", !w.vmmRuns(t, pid)
	})
}

// podReplaced reports whether there is a new Pod of this name, which has not started yet.
func (w *world) podReplaced(t *testing.T, name string) bool {
	t.Helper()
	pod := &corev1.Pod{}
	return w.Get(t.Context(), client.ObjectKey{Namespace: w.ns, Name: name}, pod) == nil && pod.DeletionTimestamp == nil && len(pod.Status.ContainerStatuses) == 0
}

// evict restarts the kubelet with a threshold for memory that the node does not meet, until
// it has evicted the Bottle's Pod. It evicts those first that use more than they request:
// this test's own, and often the managers.
func evict(w *world, t *testing.T, s story.Sandbox) {
	const config = "/etc/kubelet/config.yaml"
	w.Exec(t, node, "sh", "-ec", `cp "$1" "$1.kept"; cat >>"$1"`+" <<'END'\nevictionSoft: {memory.available: 90%}\nevictionSoftGracePeriod: {memory.available: 1s}\nevictionMaxPodGracePeriod: 5\nevictionPressureTransitionPeriod: 5s\nEND\n", "sh", config)
	restart := func() {
		w.Run(t, "part-kill", node, "kubelet")
		w.Run(t, "part-start", node, "kubelet")
	}
	restore := func() {
		if w.TryExec(t, node, "mv", config+".kept", config).Code == 0 {
			restart()
		}
	}
	t.Cleanup(restore)
	restart()
	w.Eventually(t, "the kubelet to evict the Pod", func() (string, bool) {
		pod := &corev1.Pod{}
		err := w.Get(t.Context(), client.ObjectKey{Namespace: w.ns, Name: s.Pod}, pod)
		return fmt.Sprint(pod.Status.Phase, pod.Status.Reason, err), apierrors.IsNotFound(err) || pod.Status.Reason == "Evicted"
	})
	restore()
	w.Eventually(t, "the node to have no taint", func() (string, bool) {
		n := &corev1.Node{}
		err := w.Get(t.Context(), client.ObjectKey{Name: node}, n)
		return fmt.Sprint(n.Spec.Taints, err), err == nil && len(n.Spec.Taints) == 0
	})
	// The eviction took Pods of this test, too.
	w.restartPods(t)
}

// restartPods makes those of the test's Pods again that have ended.
func (w *world) restartPods(t *testing.T) {
	t.Helper()
	for _, pod := range []*corev1.Pod{w.pods.client, w.pods.server} {
		now := &corev1.Pod{}
		if err := w.Get(t.Context(), client.ObjectKeyFromObject(pod), now); err == nil && now.Status.Phase == corev1.PodRunning {
			continue
		}
		w.mustKubectl(t, "-n", w.ns, "delete", "pod", pod.Name, "--ignore-not-found", "--timeout", w.Timeout.String())
		fresh := serverPod(w.ns, pod.Name)
		if err := w.Create(t.Context(), fresh); err != nil {
			t.Fatal(err)
		}
		w.Eventually(t, "Pod "+pod.Name+" to run", func() (string, bool) {
			err := w.Get(t.Context(), client.ObjectKeyFromObject(fresh), fresh)
			return fmt.Sprint(fresh.Status.Phase, err), err == nil && ready(fresh)
		})
		fresh.DeepCopyInto(pod)
	}
}
