// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
)

// waitingBundles start a bundle only after the machine was created.
type waitingBundles struct {
	host.Bundles
	machines *hosttest.Machines
}

func (b waitingBundles) EnsureBundle(ctx context.Context, spec host.BundleSpec) (host.Bundle, error) {
	for deadline := time.Now().Add(10 * time.Second); len(b.machines.Names()) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return host.Bundle{}, errors.New("no machine was created while the bundle was being started")
		}
	}
	return b.Bundles.EnsureBundle(ctx, spec)
}

func TestTheMachineIsCreatedWhileTheBundleStarts(t *testing.T) {
	w := newWorld(t, demo().Obj())
	w.r.steps.bundle.bundles = waitingBundles{w.bundles, w.machines}
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
}

// A bundle that does not come up delays neither the image nor the creation of
// the machine, and the machine is not started.
func TestNoMachineIsStartedWithoutItsBundle(t *testing.T) {
	w := newWorld(t, demo().Image(registryImage).Obj())
	w.images.Push(registryImage, "agent 1")
	w.faults.Fail("EnsureBundle", hosttest.Before, 3, host.ErrUnavailable)
	for range 3 {
		_, _ = w.pass(demoKey)
		w.clock.Step(soon)
	}
	calls := w.faults.Calls()
	if !slices.Contains(calls, "CreateMachine "+testID) || slices.Contains(calls, "StartMachine "+testID) {
		t.Errorf("calls: got %q, want the machine created but not started", calls)
	}
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
}

// If the early creation fails, the machine step reports the failure, and it is repaired
// like any other.
func TestACreationAheadThatFailsIsRetried(t *testing.T) {
	for _, when := range []hosttest.When{hosttest.Before, hosttest.After} {
		w := newWorld(t, demo().Obj())
		w.faults.Fail("CreateMachine", when, 1, host.ErrUnavailable)
		if _, err := w.pass(demoKey); err != nil {
			t.Fatal(err)
		}
		w.wantCond(demoKey, v1alpha1.ConditionBundleReady, "True/Ready")
		w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "False/NodeNotReady")
		w.settle(demoKey)
		w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	}
}

// A machine that was created ahead of its bundle and has never run is not kept
// when the spec changes before it starts: nothing would be lost with it, and it
// would run with what the user has corrected.
func TestAChangeBeforeTheFirstStartIsInForce(t *testing.T) {
	w := newWorld(t, demo().Image(registryImage).Env("A", "old").Obj())
	w.images.Push(registryImage, "agent 1")
	w.faults.Fail("EnsureBundle", hosttest.Before, 2, host.ErrUnavailable)
	for range 2 {
		_, _ = w.pass(demoKey)
		w.clock.Step(soon)
	}
	if got := w.faults.Calls(); !slices.Contains(got, "CreateMachine "+testID) {
		t.Fatalf("calls: got %q, want the machine created ahead", got)
	}
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.Env[0].Value = ptr.To("new") })
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	w.wantCond(demoKey, v1alpha1.ConditionPendingRestart, "")
	if got := w.machines.Starts(testID); got != 1 {
		t.Errorf("starts: got %d, want 1", got)
	}
	// A machine that has run is kept.
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.Env[0].Value = ptr.To("newer") })
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionPendingRestart, "True/SpecChanged")
}

// The kubelet may take seconds to start the Bottle's Pod.
func TestTheMachineIsCreatedWhileThePodStarts(t *testing.T) {
	b := demo().Obj()
	for name, occupied := range map[string][]netip.Prefix{"on its first choice": nil, "on another subnet": {firstChoice}} {
		t.Run(name, func(t *testing.T) {
			w := newPodWorld(t, b.DeepCopy())
			if _, err := w.pass(demoKey); err != nil {
				t.Fatal(err)
			}
			if calls := w.faults.Calls(); !slices.Contains(calls, "CreateMachine "+testID) {
				t.Errorf("calls: got %q, want the machine created", calls)
			}
			w.networks.Occupy(occupied...)
			w.startPod(1, desired.BundleDigest(b))
			w.settle(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
			w.wantCond(demoKey, v1alpha1.ConditionPendingRestart, "")
			created := 0
			for _, call := range w.faults.Calls() {
				if call == "CreateMachine "+testID {
					created++
				}
			}
			if want := 1 + len(occupied); created != want {
				t.Errorf("machines: got %d created, want %d", created, want)
			}
			_, spec, _ := w.machines.Get(testID)
			if data, err := os.ReadFile(spec.Smolfile); err != nil || !strings.Contains(string(data), w.bottle(demoKey).Status.Network.BundleIP+"/32") {
				t.Errorf("Smolfile: got %q, %v, want the address of the status, %s", data, err, w.bottle(demoKey).Status.Network.BundleIP)
			}
		})
	}
}
