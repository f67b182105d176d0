// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"slices"
	"strings"
	"testing"

	ctrl "sigs.k8s.io/controller-runtime"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
)

func TestTheMachineIsStartedBehindItsWall(t *testing.T) {
	w := running(t)
	_, wall, ok := w.walls.Get(w.ownerOf(testID))
	if !ok || w.machines.NetNS(testID) != wall.Path || wall.Path == "" {
		t.Errorf("started in %q, want the wall's namespace %q", w.machines.NetNS(testID), wall.Path)
	}
	calls := w.faults.Calls()
	if ensured, started := slices.Index(calls, "EnsureWall "+testID), slices.Index(calls, "StartMachine "+testID); ensured < 0 || ensured > started {
		t.Errorf("calls: got %q, want the wall before the start", calls)
	}
}

func TestNoMachineWithoutItsWall(t *testing.T) {
	tests := map[string]struct {
		before func(w *world)
		want   string
		repair func(w *world)
	}{
		"no bridge": {func(w *world) { w.walls.RemoveBridge(ownerOfDemo()) }, "False/WallNotReady",
			func(w *world) { w.walls.AddBridge(ownerOfDemo()) }},
		"a foreign namespace": {func(w *world) { w.walls.PutForeign(ownerOfDemo(), "namespace") }, "False/WallConflict", nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, demo().Obj())
			tt.before(w)
			for range 4 {
				if _, err := w.pass(demoKey); err != nil {
					t.Fatal(err)
				}
				w.clock.Step(soon)
			}
			w.wantCond(demoKey, v1alpha1.ConditionEgressEnforced, tt.want)
			w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "Unknown/Blocked")
			if calls := w.faults.Calls(); slices.Contains(calls, "StartMachine "+testID) {
				t.Errorf("calls: got %v, want no machine started without a wall", calls)
			}
			if tt.repair != nil {
				tt.repair(w)
				w.settle(demoKey)
				w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
			}
		})
	}
}

func ownerOfDemo() host.Owner {
	return host.Owner{UID: testUID, Namespace: "default", Name: "demo", Slug: "demo", Cluster: testCluster, Node: testNode}
}

// When the guard stops a machine, this is reported and counted. The machine is
// started again behind a repaired wall, and the wall is proven again.
func TestABreachIsReportedAndRepaired(t *testing.T) {
	w := running(t)
	proofs := w.guest.count()
	w.walls.Break(ownerOfDemo(), host.WallFault{What: "the chain is gone", Open: true})
	w.enforcer.Scan(t.Context())
	if m, _, _ := w.machines.Get(testID); m.State == host.MachineRunning {
		t.Fatalf("machine after the guard's check: got %s, want it stopped", m.State)
	}
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	w.wantCond(demoKey, v1alpha1.ConditionReady, "False/WallBroken")
	got := w.events()
	for _, word := range []string{"WallBroken", "MachineLost"} {
		if !slices.ContainsFunc(got, func(e string) bool { return strings.Contains(e, word) && strings.Contains(e, "the chain is gone") }) {
			t.Errorf("events: got %q, want %s with the cause", got, word)
		}
	}
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	if got := w.guest.count() - proofs; got != 1 {
		t.Errorf("further proofs: got %d, want 1", got)
	}
	b := w.bottle(demoKey)
	if l := b.Status.Machine.LastLoss; l == nil || !strings.Contains(l.Cause, "the chain is gone") || *b.Status.Machine.Restarts != 1 {
		t.Errorf("machine: got %+v, want one loss, caused by the guard", b.Status.Machine)
	}
}

// A machine that the guard kills while it starts did not fail to boot.
func TestABreachDuringAStartIsNotAFailedBoot(t *testing.T) {
	w := running(t)
	w.clock.Step(2 * stable)
	w.machines.Kill(testID)
	w.r.view.Invalidate(testID)
	w.faults.Fail("StartMachine", hosttest.After, 1, host.ErrBootFailed)
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	w.walls.Break(ownerOfDemo(), host.WallFault{What: "the chain is gone", Open: true})
	w.enforcer.Scan(t.Context())
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "False/WallBroken")
}

// An older agent without walls has started the machine outside of its wall.
func TestAMachineOfAnOlderAgentIsMovedBehindItsWall(t *testing.T) {
	w := running(t)
	w.machines.MoveVMM(testID, host.NetNS{Dev: 4, Inode: 1})
	folder, err := w.r.State.Folder(testUID)
	if err == nil {
		err = folder.RemoveWall()
	}
	if err != nil {
		t.Fatal(err)
	}
	w.walls.Remove(ownerOfDemo())
	w.restartAgent()
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	w.enforcer.Scan(t.Context())
	w.settle(demoKey)
	vmms, err := w.machines.VMMs(t.Context(), []string{testID})
	_, wall, _ := w.walls.Get(ownerOfDemo())
	if err != nil || len(vmms) != 1 || vmms[0].NetNS != wall.NetNS {
		t.Errorf("VMMs: got %+v %v, want one in %v", vmms, err, wall.NetNS)
	}
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
}

// A Bottle that is stopped keeps its wall, so that a start by hand is noticed.
func TestTheWallOutlivesAStop(t *testing.T) {
	w := running(t)
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
	w.settle(demoKey)
	if err := w.machines.StartMachine(t.Context(), testID, "/run/netns/other"); err != nil {
		t.Fatal(err)
	}
	w.enforcer.Scan(t.Context())
	if m, _, _ := w.machines.Get(testID); m.State == host.MachineRunning {
		t.Errorf("machine started by hand: got %s, want it stopped", m.State)
	}
}

func TestSmolvmsPolicyIsReadBackBeforeAStart(t *testing.T) {
	dropped := func(host.Policy) host.Policy { return host.Policy{} }
	wider := func(p host.Policy) host.Policy { return host.Policy{AllowedCIDRs: []string{"192.168.0.0/16"}} }
	more := func(p host.Policy) host.Policy { p.Extra = []string{"egress_rules"}; return p }
	tests := map[string]struct {
		persists      func(host.Policy) host.Policy
		requirePolicy bool
		want, egress  string
	}{
		"exact, required":            {nil, true, "True/MachineRunning", "True/BothWalls"},
		"dropped":                    {dropped, false, "True/MachineRunning", "True/HostWall"},
		"dropped, required":          {dropped, true, "False/PolicyNotPersisted", "Unknown/Blocked"},
		"wider, required":            {wider, true, "False/PolicyNotPersisted", "Unknown/Blocked"},
		"with extra rules, required": {more, true, "False/PolicyNotPersisted", "Unknown/Blocked"},
		"with extra rules":           {more, false, "True/MachineRunning", "True/HostWall"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, demo().Obj())
			w.requirePolicy = tt.requirePolicy
			w.guest.set(policed)
			w.restartAgent()
			if tt.persists != nil {
				w.machines.OverridePolicy(tt.persists)
			}
			for range 6 {
				if _, err := w.pass(demoKey); err != nil {
					t.Fatal(err)
				}
				w.clock.Step(soon)
			}
			w.wantCond(demoKey, v1alpha1.ConditionMachineReady, tt.want)
			w.wantCond(demoKey, v1alpha1.ConditionEgressEnforced, tt.egress)
			if started := w.machines.Starts(testID) > 0; started != strings.HasPrefix(tt.want, "True") {
				t.Errorf("started: got %v after %s", started, tt.want)
			}
		})
	}
}

func TestAPolicyThatCannotBeReadDoesNotPreventAStart(t *testing.T) {
	w := newWorld(t, demo().Obj())
	v := hosttest.ReferenceVersion
	v.Version, v.PolicyInList, v.EgressEvents = "1.4.0", false, false
	w.machines.SetVersion(v)
	w.faults.Fail("Policy", hosttest.Before, hosttest.Always, host.ErrUnsupported)
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionEgressEnforced, "True/HostWall")
	w.requirePolicy = true
	w.restartAgent()
	w.annotate(v1alpha1.AnnotationRestartedAt, "now")
	for range 4 {
		if _, err := w.r.Reconcile(t.Context(), ctrl.Request{NamespacedName: demoKey}); err != nil {
			t.Fatal(err)
		}
	}
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "False/PolicyNotPersisted")
}
