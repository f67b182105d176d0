// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
)

// A guest that shuts down after every start must not keep the node and the API
// server busy.
func TestAMachineThatEndsAfterEveryStartIsRestartedWithPauses(t *testing.T) {
	w := running(t)
	w.machines.Kill(testID)
	w.r.view.Invalidate(testID)
	res, err := w.pass(demoKey)
	if err != nil {
		t.Fatal(err)
	}
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "False/BootFailed")
	if res.RequeueAfter != 5*time.Second || w.machines.Starts(testID) != 1 {
		t.Errorf("after the first quick end: got %d starts, next pass after %s, want 1 and %s", w.machines.Starts(testID), res.RequeueAfter, 5*time.Second)
	}
	w.settle(demoKey)
	w.machines.Kill(testID)
	w.r.view.Invalidate(testID)
	if res, err = w.pass(demoKey); err != nil || res.RequeueAfter != 2*5*time.Second {
		t.Errorf("after the second: got next pass after %s (%v), want %s", res.RequeueAfter, err, 2*5*time.Second)
	}
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "True/MachineRunning")

	w.clock.Step(2 * stable)
	w.machines.Kill(testID)
	w.r.view.Invalidate(testID)
	if _, err := w.pass(demoKey); err != nil || w.machines.Starts(testID) != 4 {
		t.Errorf("after the end of a machine that had stayed up: got %d starts (%v), want a fourth immediately", w.machines.Starts(testID), err)
	}
}

// smolvm reads a machine's secret files at each start. The files that it was
// created with stay until there is a new machine.
func TestARemovedSecretStaysForTheMachineThatReadsIt(t *testing.T) {
	w := newWorld(t, demo().EnvFromSecret("TOKEN", "s", "k").Obj())
	w.refs.put("secrets", "s", "k", "one")
	w.settle(demoKey)
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.Env = nil })
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionPendingRestart, "True/SpecChanged")
	w.annotate(v1alpha1.AnnotationRestartedAt, "now")
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "True/MachineRunning")
	if got := w.machines.GuestEnv(testID); !slices.Contains(got, "TOKEN=one") {
		t.Errorf("guest env after a restart: got %v, want TOKEN=one to stay", got)
	}
	w.annotate(v1alpha1.AnnotationRecreatedAt, "now")
	w.settle(demoKey)
	if got := w.machines.GuestEnv(testID); slices.ContainsFunc(got, func(e string) bool { return strings.HasPrefix(e, "TOKEN=") }) {
		t.Errorf("guest env of the new machine: got %v, want no TOKEN", got)
	}
}

func TestAnAddedSecretWaitsForANewMachine(t *testing.T) {
	w := newWorld(t, demo().EnvFromSecret("TOKEN", "s", "k").Obj())
	w.refs.put("secrets", "s", "k", "one")
	w.refs.put("secrets", "more", "k", "two")
	w.settle(demoKey)
	w.update(demoKey, func(b *v1alpha1.Bottle) {
		added := b.Spec.Env[0].DeepCopy()
		added.Name, added.ValueFrom.SecretKeyRef.Name = "MORE", "more"
		b.Spec.Env = append(b.Spec.Env, *added)
	})
	w.settle(demoKey)
	w.annotate(v1alpha1.AnnotationRestartedAt, "now")
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionPendingRestart, "True/SpecChanged")
}

func TestAStoppedMachineWithoutARecordIsStarted(t *testing.T) {
	w := running(t)
	folder, err := w.r.State.Folder(testUID)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.machines.StopMachine(t.Context(), testID); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(folder.Path(), "machine.json")); err != nil {
		t.Fatal(err)
	}
	w.r.view.Invalidate(testID)
	w.settle(demoKey)
	if m, _, _ := w.machines.Get(testID); m.State != host.MachineRunning {
		t.Errorf("state: got %s, want running", m.State)
	}
}

// A teardown needs only the identity.
func TestABottleWithABrokenRecordCanBeDeleted(t *testing.T) {
	w := running(t)
	folder, err := w.r.State.Folder(testUID)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder.Path(), "machine.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.pass(demoKey); err == nil {
		t.Error("a pass with a broken record: got no error, want one that names it")
	}
	w.remove()
	w.wantEmpty()
}
