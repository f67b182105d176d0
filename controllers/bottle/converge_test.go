// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/passes"
)

// furtherSteps returns the conditions of steps that are not among the given ones:
// those that were added after the test was written.
func furtherSteps[V any](named map[string]V) []v1alpha1.ConditionType {
	return slices.DeleteFunc(slices.Clone(v1alpha1.ConditionTypes), func(t v1alpha1.ConditionType) bool {
		_, ok := named[t.Type]
		return ok || t.DoneReason == ""
	})
}

func TestABottleRuns(t *testing.T) {
	w := newWorld(t, demo().Env("GREETING", "hello").Obj())
	w.settle(demoKey)

	got := map[string]string{}
	for _, c := range w.bottle(demoKey).Status.Conditions {
		got[c.Type] = string(c.Status) + "/" + c.Reason
	}
	want := map[string]string{
		"Scheduled": "True/Scheduled", "NetworkReady": "True/Ready", "SmolfileReady": "True/Ready",
		"BundleReady": "True/Ready", "MachineReady": "True/MachineRunning",
		"EgressEnforced": "True/HostWall", "Ready": "True/Ready",
	}
	for _, typ := range furtherSteps(want) {
		want[typ.Type] = "True/" + typ.DoneReason
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("conditions (-want +got):\n%s", d)
	}
	b := w.bottle(demoKey)
	if b.Status.ObservedGeneration == nil || *b.Status.ObservedGeneration != 1 {
		t.Errorf("observedGeneration: got %v, want 1", b.Status.ObservedGeneration)
	}
	if !slices.Contains(b.Finalizers, v1alpha1.FinalizerNode) {
		t.Errorf("finalizers: got %v, want %s among them", b.Finalizers, v1alpha1.FinalizerNode)
	}
	m, spec, ok := w.machines.Get(testID)
	if !ok || m.State != host.MachineRunning {
		t.Fatalf("machine: got %v %v, want a running one", m.State, ok)
	}
	if spec.CPUs != 2 || spec.MemoryMiB != 2048 {
		t.Errorf("size: got %d CPUs, %d MiB, want the reserved 2, 2048", spec.CPUs, spec.MemoryMiB)
	}
	if d := cmp.Diff([]string{b.Status.Network.BundleIP + "/32"}, m.AllowedCIDRs); d != "" {
		t.Errorf("policy (-want +got):\n%s", d)
	}
	if !slices.Contains(w.machines.GuestEnv(testID), "GREETING=hello") {
		t.Errorf("guest env: got %v, want GREETING=hello among them", w.machines.GuestEnv(testID))
	}
	if st := b.Status.Machine; st == nil || st.Name != testID || st.PID == nil || st.Restarts == nil || *st.Restarts != 0 {
		t.Errorf("status.machine: got %+v, want name, pid and no restarts", st)
	}
	if st := b.Status.Image; st == nil || st.Reference != "file:guest.tar" || st.Digest == nil {
		t.Errorf("status.image: got %+v, want file:guest.tar with a digest", st)
	}
	if st := b.Status.Bundle; st == nil || st.Name != testID || st.ContainerID == nil {
		t.Errorf("status.bundle: got %+v, want name and container", st)
	}
}

func TestWritesUntilABottleRuns(t *testing.T) {
	w := newWorld(t, demo().Obj())
	w.settle(demoKey)
	want := []string{"patch demo", "apply status", "apply status", "apply status"}
	if d := cmp.Diff(want, w.api.log()); d != "" {
		t.Errorf("API writes (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"Normal MachineRunning the machine is running and answers"}, w.events()); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
}

func TestSteadyStateWritesNothing(t *testing.T) {
	w := newWorld(t, demo().Env("A", "b").Allow("example.com").Obj())
	w.settle(demoKey)
	before := w.nodeState()
	w.api.reset()
	w.faults.ResetCalls()
	w.events()
	for range 3 {
		w.clock.Step(passes.Resync)
		if _, err := w.pass(demoKey); err != nil {
			t.Fatal(err)
		}
	}
	w.wantQuiet(before)
}

func TestRestartOfTheAgentChangesNothing(t *testing.T) {
	w := newWorld(t, demo().EnvFromSecret("TOKEN", "creds", "token").BundlePorts(8888).Obj())
	w.refs.put("secrets", "creds", "token", "hush")
	w.settle(demoKey)
	before := w.nodeState()
	w.api.reset()
	w.faults.ResetCalls()
	w.restartAgent()
	w.settle(demoKey)
	w.wantQuiet(before)
}

// wantQuiet checks that nothing was written since the calls were reset.
func (w *world) wantQuiet(before map[string]string) {
	w.t.Helper()
	if got := w.api.log(); len(got) != 0 {
		w.t.Errorf("API writes: got %v, want none", got)
	}
	if got := w.writingCalls(); len(got) != 0 {
		w.t.Errorf("host writes: got %v, want none", got)
	}
	if d := cmp.Diff(before, w.nodeState()); d != "" {
		w.t.Errorf("node (-before +after):\n%s", d)
	}
	if got := w.events(); len(got) != 0 {
		w.t.Errorf("events: got %v, want none", got)
	}
}

func TestDeletingLeavesNothing(t *testing.T) {
	w := newWorld(t, demo().EnvFromSecret("TOKEN", "creds", "token").Obj())
	w.refs.put("secrets", "creds", "token", "hush")
	w.settle(demoKey)
	if err := w.api.Delete(t.Context(), w.bottle(demoKey)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	w.wantEmpty()
	if err := w.api.Get(t.Context(), demoKey, &v1alpha1.Bottle{}); err == nil {
		t.Errorf("bottle: got it, want it gone")
	}
}

// wantEmpty checks that no Bottle has anything on the node.
func (w *world) wantEmpty() {
	w.t.Helper()
	if d := cmp.Diff(map[string]string{}, w.nodeState()); d != "" {
		w.t.Errorf("node (-want +got):\n%s", d)
	}
	entries, err := os.ReadDir(filepath.Join(w.stateDir, "bottles"))
	if err != nil || len(entries) != 0 {
		w.t.Errorf("folders: got %v %v, want none", entries, err)
	}
}

func TestASecretStaysOutOfEverything(t *testing.T) {
	const secret = "s3cr3t-value-nobody-may-see"
	w := newWorld(t, demo().EnvFromSecret("TOKEN", "creds", "token").Obj())
	w.refs.put("secrets", "creds", "token", secret+"  \n")
	w.settle(demoKey)

	if got := w.machines.GuestEnv(testID); !slices.ContainsFunc(got, func(e string) bool { return strings.HasPrefix(e, "TOKEN="+secret) }) {
		t.Fatalf("guest env: got %v, want TOKEN in it", got)
	}
	folder := filepath.Join(w.stateDir, "bottles", testUID)
	for _, name := range []string{"Smolfile", "machine.json", "owner.json", "bundle/egress.json"} {
		data, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(data), secret) {
			t.Errorf("%s: has the secret", name)
		}
	}
	if info, err := os.Stat(filepath.Join(folder, "secrets", "TOKEN")); err != nil || info.Mode() != 0o600 {
		t.Errorf("secret file: got %v %v, want mode 0600", info, err)
	}
	if got := mustJSON(t, w.bottle(demoKey)); strings.Contains(got, secret) {
		t.Errorf("bottle: has the secret")
	}
	got := w.events()
	if strings.Contains(strings.Join(got, "\n"), secret) {
		t.Errorf("events: have the secret")
	}
	if !slices.ContainsFunc(got, func(e string) bool {
		return strings.Contains(e, eventWhiteSpaceDropped+" ") && strings.Contains(e, "TOKEN")
	}) {
		t.Errorf("events: got %q, want %s about TOKEN", got, eventWhiteSpaceDropped)
	}
	if strings.Contains(mustJSON(t, w.machines.StoredEnv(testID)), secret) {
		t.Errorf("smolvm's database: has the secret")
	}
}
