// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/subnet"
	"botbottle.dev/bottle-operator/test/require"
)

// A changed spec.bundle waits for a restart. That starts the machine again in a new Pod, on
// the same node and with its disk.
func TestLongChangedBundle(t *testing.T) {
	require.Long(t)
	w := connect(t)
	w.needPods(t)
	w.startPods(t)
	w.startKept(t)
	before := w.Sandbox(t, w.kept)
	uid := w.podUID(t, before.Pod)
	w.Guest(t, w.kept, "sh", "-c", "echo kept >/root/disk; sync")

	w.Change(t, w.kept, func() {
		w.kept.Spec.Bundle = &v1alpha1.Bundle{Env: []v1alpha1.EnvVar{{Name: "COLOUR", Value: ptr.To("green")}}, Ports: []int32{8888}}
	})
	w.WaitFor(t, w.kept, "to say that spec.bundle is pending", func() bool {
		c := meta.FindStatusCondition(w.kept.Status.Conditions, v1alpha1.ConditionPendingRestart)
		return c != nil && strings.Contains(c.Message, "spec.bundle")
	})
	if now := w.identify(t); now.pid != w.before.pid || w.podUID(t, before.Pod) != uid {
		t.Errorf("machine after the change: got %+v, want still %+v in the same Pod", now, w.before)
	}
	w.keepDialing(t, w.kept)
	canary := w.startCanary(t, w.kept)
	if r := w.Bottle(t, nil, "restart", "-n", w.ns, w.kept.Name); r.Code != 0 {
		t.Fatalf("kubectl bottle restart: got %+v, want exit code 0", r)
	}
	w.WaitFor(t, w.kept, "to run in another machine, with nothing pending", func() bool {
		m := w.kept.Status.Machine
		return m != nil && m.PID != nil && fmt.Sprint(*m.PID) != w.before.pid &&
			meta.FindStatusCondition(w.kept.Status.Conditions, v1alpha1.ConditionPendingRestart) == nil
	})
	w.WaitRunning(t, w.kept)
	after := w.Sandbox(t, w.kept)
	pod := &corev1.Pod{}
	if err := w.Get(t.Context(), client.ObjectKey{Namespace: w.ns, Name: after.Pod}, pod); err != nil {
		t.Fatal(err)
	}
	if string(pod.UID) == uid || pod.Spec.NodeName != node {
		t.Errorf("the Pod: got UID %s on %s, want another one than %s on %s", pod.UID, pod.Spec.NodeName, uid, node)
	}
	if env := w.Exec(t, node, "sh", "-c", "tr '\\0' '\\n' </proc/"+after.Bundle+"/environ"); !strings.Contains(env, "COLOUR=green") {
		t.Errorf("variables of the new bundle: got %q, want COLOUR=green", env)
	}
	if got := w.Guest(t, w.kept, "cat", "/root/disk"); strings.TrimSpace(got) != "kept" {
		t.Errorf("the machine's disk: got %q, want the file of the earlier run", got)
	}
	if m := w.kept.Status.Machine; m.LastLoss != nil || ptr.Deref(m.Restarts, 0) != 0 {
		t.Errorf("the restart: got loss %+v, %d restarts, want none counted", m.LastLoss, ptr.Deref(m.Restarts, 0))
	}
	w.wantBothChains(t, after)
	w.wantBundleReached(t)
	w.wantNoPodReachesBundle(t)
	canary.wantQuiet(t, w.kept)
}

// A Pod network that contains the Bottle's own range is avoided by a new Bottle. One whose
// machine has its addresses already keeps them, unless its Pod has one of them.
func TestLongPodNetworkInTheBottlesRange(t *testing.T) {
	require.Long(t)
	w := connect(t)
	w.needPods(t)
	w.startPods(t)
	choice, err := subnet.Default().Pick("kept", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.movePodNetwork(t, choice.Subnet.String())
	w.startKept(t)
	moved := w.kept.Status.Network.Subnet
	if moved == choice.Subnet.String() {
		t.Errorf("subnet of a Bottle whose Pod is in %s: got the same one, want another", choice.Subnet)
	}
	w.wantBundleReached(t)

	// The Pods' network now comes to contain the Bottle's: a new sandbox has an address there.
	w.movePodNetwork(t, moved)
	sandbox := w.Sandbox(t, w.kept)
	w.keepDialing(t, w.kept)
	canary := w.startCanary(t, w.kept)
	w.Exec(t, node, "kill", "-9", sandbox.Pause)
	w.Eventually(t, "another sandbox", func() (string, bool) {
		now, ok := w.TrySandbox(t, w.kept)
		return fmt.Sprintf("%+v", now), ok && now.ID != sandbox.ID && now.Bundle != ""
	})
	w.wantMachineKept(t)
	if got := w.kept.Status.Network.Subnet; got != moved {
		t.Errorf("subnet of a Bottle that has its machine: got %s, want still %s", got, moved)
	}
	w.wantBothChains(t, w.Sandbox(t, w.kept))
	w.wantBundleReached(t)
	canary.wantQuiet(t, w.kept)
}

// movePodNetwork gives new Pods of the node addresses of another network, until the test
// ends. Pods that run keep theirs.
func (w *world) movePodNetwork(t *testing.T, network string) {
	t.Helper()
	const file = "/etc/cni/net.d/05-moved.conflist" // the runtime uses the first one
	link := "cni-" + strings.Split(network, ".")[2]
	first := strings.TrimSuffix(network, "0/24") + "10" // not an address of a Bottle
	config := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": %q, "plugins": [{"type": "bridge", "bridge": %[1]q, "isGateway": true,
		"ipMasq": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": %q, "rangeStart": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}`, link, network, first)
	w.ExecInput(t, node, []byte(config), "sh", "-ec", `cat >"$1.new" && mv "$1.new" "$1"`, "sh", file)
	t.Cleanup(func() { w.TryExec(t, node, "sh", "-c", `rm -f "$1"; ip link del "$2"`, "sh", file, link) })
	w.Eventually(t, "the container runtime to use the network", func() (string, bool) {
		out := w.Exec(t, node, "crictl", "info")
		return out, strings.Contains(out, link)
	})
}
