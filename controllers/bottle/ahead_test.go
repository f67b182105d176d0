// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/api/v1alpha1"
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

// What goes wrong with the early creation is reported by the machine step, and
// repaired like any other failure.
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
