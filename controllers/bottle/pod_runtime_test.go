// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/bundleruntime"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/internal/subnet"
)

// runningInPod returns a world whose demo Bottle runs, with its bundle in a Pod.
func runningInPod(t *testing.T) *world {
	t.Helper()
	b := demo().Obj()
	w := newPodWorld(t, b)
	w.startPod(1, desired.BundleDigest(b))
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	return w
}

func TestABottleInAPod(t *testing.T) {
	b := demo().Obj()
	w := newPodWorld(t, b)
	w.around.reserved = []subnet.Reserved{{Network: firstChoice, By: "the cluster"}}
	w.startPod(1, desired.BundleDigest(b))
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	st := w.bottle(demoKey).Status
	if got := ptr.Deref(st.Bundle.Runtime, ""); got != v1alpha1.BundleRuntimePod {
		t.Errorf("runtime: got %q, want Pod", got)
	}
	if st.Network.Subnet != firstChoice.String() {
		t.Errorf("subnet: got %s, want the first choice %s, because it exists only in the Pod", st.Network.Subnet, firstChoice)
	}
	w.pods.node = "" // a later agent prefers docker
	w.restartAgent()
	w.settle(demoKey)
	if got := ptr.Deref(w.bottle(demoKey).Status.Bundle.Runtime, ""); got != v1alpha1.BundleRuntimePod {
		t.Errorf("runtime after another choice for new Bottles: got %q, want Pod", got)
	}
}

func TestABottleWaitsForItsPod(t *testing.T) {
	w := newPodWorld(t, demo().Obj())
	res, err := w.pass(demoKey)
	if got := w.cond(demoKey, v1alpha1.ConditionNetworkReady); got != "" || err != nil || res.RequeueAfter != 10*time.Second {
		t.Errorf("first pass: got NetworkReady %q, the next pass after %s, %v; want no report for 10 s", got, res.RequeueAfter, err)
	}
	w.clock.Step(-time.Hour) // the manager's clock is ahead
	if res, err := w.pass(demoKey); err != nil || w.cond(demoKey, v1alpha1.ConditionNetworkReady) == "" {
		t.Errorf("with another clock than the manager's: got no report, %v, %v, want one", res, err)
	}
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionNetworkReady, "False/PodStarting")
	if got, want := w.message(demoKey, v1alpha1.ConditionNetworkReady), "kubectl describe pod -l botbottle.dev/uid="+testUID+" -n default"; !strings.Contains(got, want) {
		t.Errorf("message: got %q, want it to name %q", got, want)
	}
	w.failRuntime(host.ErrUnavailable)
	_, _ = w.pass(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionNetworkReady, "False/ContainerRuntimeUnavailable")
}

// TestARestartOfTheContainerRuntimeIsNotReported checks that a pass keeps what was reported
// while the container runtime is probably being restarted, and that the next one comes soon.
func TestARestartOfTheContainerRuntimeIsNotReported(t *testing.T) {
	w := runningInPod(t)
	before := w.bottle(demoKey).ResourceVersion
	w.failRuntime(fmt.Errorf("list the node's Pods: %w", host.ErrRestarting))
	res, err := w.pass(demoKey)
	if err != nil || res.RequeueAfter == 0 || res.RequeueAfter > 10*time.Second {
		t.Errorf("got %v, %v, want another pass soon", res, err)
	}
	if got := w.bottle(demoKey).ResourceVersion; got != before {
		t.Errorf("the Bottle was written: got version %s, want still %s", got, before)
	}
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	w.failRuntime(host.ErrUnavailable)
	_, _ = w.pass(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionNetworkReady, "False/ContainerRuntimeUnavailable")
}

// TestANodeWithoutAnAnswerChoosesNothing checks that a Bottle does not get a runtime by
// accident.
func TestANodeWithoutAnAnswerChoosesNothing(t *testing.T) {
	b := demo().Obj()
	w := newPodWorld(t, b)
	w.failRuntime(host.ErrUnavailable)
	for range 2 { // the first pass adds the finalizer
		_, _ = w.pass(demoKey)
	}
	w.wantCond(demoKey, v1alpha1.ConditionNetworkReady, "False/ContainerRuntimeUnavailable")
	w.failRuntime(nil)
	w.startPod(1, desired.BundleDigest(b))
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
}

// TestAReplacedSandbox checks that a machine survives the loss of its Pod's network, and
// that one Event says so.
func TestAReplacedSandbox(t *testing.T) {
	w := runningInPod(t)
	pid := *w.bottle(demoKey).Status.Machine.PID
	w.events()
	w.loseNetwork()
	// Its Pod's new address is in the Bottle's own network.
	w.networks.Occupy(netip.PrefixFrom(firstChoice.Addr().Next(), 32))
	w.startPod(2, desired.BundleDigest(demo().Obj()))
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	w.wantEvent("SandboxReplaced")
	if got := w.bottle(demoKey).Status.Network.Subnet; got != firstChoice.String() {
		t.Errorf("subnet: got %s, want still %s, whose addresses the machine has", got, firstChoice)
	}
	if now := *w.bottle(demoKey).Status.Machine.PID; now != pid {
		t.Errorf("got another VMM (%d), want the same as before (%d)", now, pid)
	}
	w.restartAgent()
	w.settle(demoKey)
	for _, e := range w.events() {
		if strings.Contains(e, "SandboxReplaced") {
			t.Errorf("another agent: got %q again, want it once", e)
		}
	}
}

// TestAChangedBundleWaitsForARestart checks that a machine keeps the bundle that its Pod
// was made for, and that the machine is down before the manager is told.
func TestAChangedBundleWaitsForARestart(t *testing.T) {
	w := runningInPod(t)
	w.update(demoKey, func(b *v1alpha1.Bottle) {
		b.Generation++
		b.Spec.Bundle = &v1alpha1.Bundle{Ports: []int32{8888, 9418}}
	})
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionPendingRestart, "True/SpecChanged")
	if got := w.message(demoKey, v1alpha1.ConditionPendingRestart); !strings.Contains(got, "spec.bundle") || !strings.Contains(got, "restartedAt") {
		t.Errorf("message: got %q, want spec.bundle, by a restart", got)
	}
	if got := w.enforcer.Walls()[0].Ports; !slices.Equal(got, []int32{8888}) {
		t.Errorf("the wall's ports: got %v, want those of the present bundle", got)
	}
	w.annotate(v1alpha1.AnnotationRestartedAt, "now")
	w.settle(demoKey)
	w.wantNoVMM()
	w.wantCond(demoKey, v1alpha1.ConditionBundleReady, "False/PodOutdated")
	if got := ptr.Deref(w.bottle(demoKey).Status.Bundle.Runtime, ""); got != v1alpha1.BundleRuntimePod {
		t.Errorf("runtime: got %q, want Pod, without which the manager replaces nothing", got)
	}
	w.loseNetwork()
	w.bundles.AddImage(hosttest.BuiltInImage, 8888, 9418)
	w.startPod(2, desired.BundleDigest(w.bottle(demoKey)))
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	w.wantCond(demoKey, v1alpha1.ConditionPendingRestart, "")
	if got := w.enforcer.Walls()[0].Ports; !slices.Equal(got, []int32{8888, 9418}) {
		t.Errorf("the wall's ports: got %v, want those of the new bundle", got)
	}
}

// TestAStoppedBottleInAPod checks that its bundle loses its rules, although it runs.
func TestAStoppedBottleInAPod(t *testing.T) {
	b := demo().Allow("example.com").Obj()
	w := newPodWorld(t, b)
	w.startPod(1, desired.BundleDigest(b))
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	if len(w.rulesInForce()) == 0 {
		t.Fatal("running: got no rules, want some")
	}
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Generation++; b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Stopped")
	if got := w.rulesInForce(); len(got) > 0 {
		t.Errorf("stopped: got the rules %v, want none", got)
	}
}

// TestAPodThatIsGone checks that a teardown needs no Pod, but waits for a container runtime
// that does not answer.
func TestAPodThatIsGone(t *testing.T) {
	w := runningInPod(t)
	w.failRuntime(host.ErrUnavailable)
	w.faults.Fail("DeleteBundle", hosttest.Before, 1, host.ErrUnavailable)
	if err := w.api.Delete(t.Context(), w.bottle(demoKey)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_, _ = w.pass(demoKey)
	}
	w.wantNoVMM()
	w.wantCond(demoKey, v1alpha1.ConditionReady, "False/Terminating")
	w.failRuntime(nil)
	w.endPod()
	w.settle(demoKey)
	w.wantEmpty()
}

// TestABundleIsProtectedWhileItsBottleIsStopped checks that a stopped Bottle's bundle is
// protected in a new sandbox, although no machine runs, and that the Bottle stays stopped when
// its Pod is gone.
func TestABundleIsProtectedWhileItsBottleIsStopped(t *testing.T) {
	w := runningInPod(t)
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Generation++; b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
	w.settle(demoKey)
	w.loseNetwork()
	w.startPod(2, desired.BundleDigest(w.bottle(demoKey)))
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "False/Stopped")
	if got := w.pods.protected; !got[2] {
		t.Errorf("protected namespaces: got %v, want the new one, 2, too", got)
	}
	w.endPod()
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "False/Stopped")
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Stopped")
}

// TestAnotherPodEndsNoRecordOfARunningMachine checks that a machine that runs is not taken
// for one that ended with its Pod, whatever Pod the record names, and that its real end then
// counts.
func TestAnotherPodEndsNoRecordOfARunningMachine(t *testing.T) {
	w := runningInPod(t)
	w.movePod("another")
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	if got := w.machineRecord(); got.Run == nil || got.Pod != "pod" {
		t.Errorf("running: got run %v in Pod %q, want it in the Pod that it was started in", got.Run, got.Pod)
	}
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Generation++; b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
	w.settle(demoKey)
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Generation++; b.Spec.DesiredState = v1alpha1.DesiredStateRunning })
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")

	end := func() {
		w.machines.Kill(testID)
		w.r.view.Invalidate(testID)
		w.settle(demoKey)
		w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	}
	w.movePod("a third one")
	end()
	if got := w.machineRecord(); got.Restarts != 0 || got.Pod != "a third one" {
		t.Errorf("ended with its Pod: got %d restarts in Pod %q, want none in the new one", got.Restarts, got.Pod)
	}
	end()
	if got := w.machineRecord(); got.Restarts != 1 {
		t.Errorf("ended in its Pod: got %d restarts, want 1", got.Restarts)
	}
}

// TestACrashInThePodOfTheStartCounts checks that a machine that ends in the Pod in which it
// was started was lost, even if the Bottle had another Pod when the start was requested, and
// even if the agent died before it saw the machine run.
func TestACrashInThePodOfTheStartCounts(t *testing.T) {
	for name, died := range map[string]bool{"the same agent": false, "another agent": true} {
		t.Run(name, func(t *testing.T) {
			b := demo().Obj()
			w := newPodWorld(t, b)
			w.startPod(1, desired.BundleDigest(b))
			w.pods.onStart = func() { w.movePod("later") }
			for range 60 {
				if _, err := w.pass(demoKey); err == nil && w.r.starts.Started() > 0 {
					break
				}
				w.clock.Step(time.Second)
			}
			if died {
				w.restartAgent()
			}
			w.settle(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
			if got := w.machineRecord(); got.BundleMemory != 128<<20 {
				t.Errorf("got %d bytes for the bundle, want 128 MiB", got.BundleMemory)
			}
			w.machines.Kill(testID)
			w.r.view.Invalidate(testID)
			w.settle(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
			if got := w.machineRecord(); got.Restarts != 1 {
				t.Errorf("got %d restarts, want 1", got.Restarts)
			}
		})
	}
}

// TestTheStatusNamesTheRuntime checks that a Bottle of which nothing is on the disk, as of an
// agent that knew only docker, is docker's, and that the status of one in a Pod says so from
// its first report on.
func TestTheStatusNamesTheRuntime(t *testing.T) {
	b := demo().Obj()
	w := newPodWorld(t, b)
	b.Status.Network = &v1alpha1.NetworkStatus{Subnet: firstChoice.String()}
	b.Status.Bundle = &v1alpha1.BundleStatus{Name: testID}
	if s, err := w.r.newScope(b); err != nil || s.runtime != bundleruntime.Docker {
		t.Errorf("got runtime %q, %v, want docker", s.runtime, err)
	}
	w.r.Runtimes.Forget(testUID)
	w.startPod(1, desired.BundleDigest(b))
	w.faults.Fail("EnsureBundle", hosttest.Before, 1000, host.ErrUnavailable)
	for range 3 {
		_, _ = w.pass(demoKey)
	}
	st := w.bottle(demoKey).Status
	if st.Network == nil || st.Bundle == nil || ptr.Deref(st.Bundle.Runtime, "") != v1alpha1.BundleRuntimePod {
		t.Errorf("got network %v with bundle %v, want the runtime as soon as there is a network", st.Network, st.Bundle)
	}
}
