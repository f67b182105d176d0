// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	ctrl "sigs.k8s.io/controller-runtime"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/internal/lifecycle"
)

func running(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, demo().Env("A", "b").Obj())
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "True/MachineRunning")
	w.events()
	w.api.reset()
	return w
}

func TestALostMachineIsStartedAgain(t *testing.T) {
	w := running(t)
	w.machines.Kill(testID)
	w.r.view.Invalidate(testID)
	w.settle(demoKey)

	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "True/MachineRunning")
	st := w.bottle(demoKey).Status.Machine
	if st.Restarts == nil || *st.Restarts != 1 {
		t.Errorf("restarts: got %v, want 1", st.Restarts)
	}
	if st.LastLoss == nil || !strings.Contains(st.LastLoss.Cause, "signal 9") {
		t.Errorf("lastLoss: got %v, want signal 9", st.LastLoss)
	}
	w.wantEvent(eventMachineLost)
	if got := w.machines.Starts(testID); got != 2 {
		t.Errorf("starts: got %d, want 2", got)
	}
}

// No poll runs in this test, and nothing else lists the machines again. Only the
// reconciler's own watch can notice that the VMM ended.
func TestTheEndOfAVMMIsNoticedImmediately(t *testing.T) {
	w := running(t)
	w.useQueue()
	w.machines.Kill(testID)
	if got := w.nextQueued(); got != demoKey {
		t.Errorf("queued: got %v, want %v", got, demoKey)
	}
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	if got := w.bottle(demoKey).Status.Machine; got == nil || got.LastLoss == nil {
		t.Errorf("machine after one pass: got %+v, want its loss", got)
	}
}

func TestPendingRestart(t *testing.T) {
	tests := map[string]struct {
		change func(*v1alpha1.Bottle)
		want   []string
	}{
		"env":      {func(b *v1alpha1.Bottle) { b.Spec.Env[0].Value = new("c") }, []string{"spec.env", "recreatedAt"}},
		"new env":  {func(b *v1alpha1.Bottle) { b.Spec.Env = append(b.Spec.Env, v1alpha1.EnvVar{Name: "N", Value: new("1")}) }, []string{"spec.env", "recreatedAt"}},
		"no env":   {func(b *v1alpha1.Bottle) { b.Spec.Env = nil }, []string{"spec.env"}},
		"image":    {func(b *v1alpha1.Bottle) { b.Spec.Image = new("file:other.tar") }, []string{"spec.image"}},
		"command":  {func(b *v1alpha1.Bottle) { b.Spec.Command = []string{"sh"} }, []string{"spec.command"}},
		"machine":  {func(b *v1alpha1.Bottle) { b.Spec.Machine = &v1alpha1.Machine{CPUs: new(int32(3))} }, []string{"spec.machine"}},
		"several":  {func(b *v1alpha1.Bottle) { b.Spec.Env, b.Spec.Command = nil, []string{"sh"} }, []string{"spec.env, spec.command"}},
		"an equal": {func(b *v1alpha1.Bottle) { b.Spec.Env = []v1alpha1.EnvVar{{Name: "A", Value: new("b")}} }, nil},
		"egress":   {func(b *v1alpha1.Bottle) { b.Spec.Egress = &v1alpha1.Egress{Allow: []v1alpha1.EgressRule{"a.b"}} }, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := running(t)
			before, _, _ := w.machines.Get(testID)
			w.update(demoKey, tt.change)
			w.settle(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "True/MachineRunning")
			want := ""
			if tt.want != nil {
				want = "True/SpecChanged"
			}
			w.wantCond(demoKey, v1alpha1.ConditionPendingRestart, want)
			for _, text := range tt.want {
				if got := w.message(demoKey, v1alpha1.ConditionPendingRestart); !strings.Contains(got, text) {
					t.Errorf("message: got %q, want %q in it", got, text)
				}
			}
			if after, _, _ := w.machines.Get(testID); after.PID != before.PID {
				t.Errorf("machine: got another one, want it left alone")
			}
			if b := w.bottle(demoKey); *b.Status.ObservedGeneration != b.Generation {
				t.Errorf("observedGeneration: got %d, want %d", *b.Status.ObservedGeneration, b.Generation)
			}
		})
	}
}

func TestAChangedSecretRequiresARestart(t *testing.T) {
	w := newWorld(t, demo().EnvFromSecret("TOKEN", "s", "k").Obj())
	w.refs.put("secrets", "s", "k", "one")
	w.settle(demoKey)
	w.refs.put("secrets", "s", "k", "two")
	w.settle(demoKey)
	if got := w.message(demoKey, v1alpha1.ConditionPendingRestart); !strings.Contains(got, "restartedAt") {
		t.Errorf("message: got %q, want restartedAt in it", got)
	}
	w.annotate(v1alpha1.AnnotationRestartedAt, "now")
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionPendingRestart, "")
	if got := w.machines.GuestEnv(testID); !slices.Contains(got, "TOKEN=two") {
		t.Errorf("guest env: got %v, want TOKEN=two in it", got)
	}
}

func (w *world) annotate(name, value string) {
	w.t.Helper()
	w.update(demoKey, func(b *v1alpha1.Bottle) {
		if b.Annotations == nil {
			b.Annotations = map[string]string{}
		}
		b.Annotations[name] = value
	})
}

func TestRestartedAt(t *testing.T) {
	w := running(t)
	created, _, _ := w.machines.Get(testID)
	w.annotate(v1alpha1.AnnotationRestartedAt, "2026-01-01T00:00:00Z")
	w.settle(demoKey)
	after, _, _ := w.machines.Get(testID)
	if w.machines.Starts(testID) != 2 || after.PID == created.PID || after.State != host.MachineRunning {
		t.Errorf("machine: got %+v, want %+v with another VMM", after, created)
	}
	if st := w.bottle(demoKey).Status.Machine; *st.Restarts != 0 || st.LastLoss != nil {
		t.Errorf("restarts: got %d, %v, want none: the restart was requested", *st.Restarts, st.LastLoss)
	}
	starts := w.machines.Starts(testID)
	w.restartAgent()
	w.settle(demoKey)
	if got := w.machines.Starts(testID); got != starts {
		t.Errorf("starts after a restart of the agent: got %d, want %d: the annotation was acted on before", got, starts)
	}
}

func TestRecreatedAt(t *testing.T) {
	w := running(t)
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.Env[0].Value = new("new") })
	w.settle(demoKey)
	created, _, _ := w.machines.Get(testID)
	w.annotate(v1alpha1.AnnotationRecreatedAt, "2026-01-01T00:00:00Z")
	w.settle(demoKey)
	after, _, _ := w.machines.Get(testID)
	if w.machines.Starts(testID) != 1 || after.PID == created.PID || after.State != host.MachineRunning {
		t.Errorf("machine: got %+v, want a new one that runs", after)
	}
	w.wantCond(demoKey, v1alpha1.ConditionPendingRestart, "")
	if got := w.machines.GuestEnv(testID); !slices.Contains(got, "A=new") {
		t.Errorf("guest env: got %v, want A=new in it", got)
	}
	if st := w.bottle(demoKey).Status.Machine; *st.Restarts != 0 || st.LastLoss != nil {
		t.Errorf("restarts: got %d, %v, want none: the new machine was requested", *st.Restarts, st.LastLoss)
	}
}

func TestABootThatFails(t *testing.T) {
	w := newWorld(t, demo().Obj())
	w.faults.Fail("StartMachine", hosttest.Before, 3, fmt.Errorf("start: %w: no KVM for this user", host.ErrBootFailed))
	var pauses []time.Duration
	for range 20 {
		res, err := w.pass(demoKey)
		if err != nil {
			t.Fatal(err)
		}
		if w.cond(demoKey, v1alpha1.ConditionMachineReady) == "False/BootFailed" && res.RequeueAfter > 0 {
			if len(pauses) == 0 {
				w.wantEvent("BootFailed")
				if got := w.message(demoKey, v1alpha1.ConditionMachineReady); !strings.Contains(got, "no KVM for this user") {
					t.Errorf("message: got %q, want the cause in it", got)
				}
			}
			pauses = append(pauses, res.RequeueAfter)
			w.restartAgent() // the count survives this
		}
		w.clock.Step(min(res.RequeueAfter, 5*time.Minute))
	}
	if d := cmp.Diff([]time.Duration{5 * time.Second, 2 * 5 * time.Second, 4 * 5 * time.Second}, pauses); d != "" {
		t.Errorf("pauses (-want +got):\n%s", d)
	}
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "True/MachineRunning")
	if st := w.bottle(demoKey).Status.Machine; *st.Restarts != 0 {
		t.Errorf("restarts: got %d, want 0: it never ran before", *st.Restarts)
	}
}

func TestMachineFailures(t *testing.T) {
	tests := map[string]struct {
		before      func(w *world)
		wantCond    string
		wantStalled string
		wantMessage string
	}{
		"smolvm is missing": {func(w *world) {
			w.facts.Break("smolvm", "install smolvm in /opt/smolvm")
			w.faults.Fail("ListMachines", hosttest.Before, hosttest.Always, host.ErrUnavailable)
			w.faults.Fail("Version", hosttest.Before, hosttest.Always, host.ErrUnavailable)
		}, "False/NodeNotReady", "", "install smolvm in /opt/smolvm"},
		"KVM is closed":     {func(w *world) { w.facts.Break("kvm", "chmod 666 /dev/kvm") }, "False/NodeNotReady", "", "chmod 666 /dev/kvm"},
		"refused":           {func(w *world) { w.faults.Fail("CreateMachine", hosttest.Before, 1, host.ErrInvalid) }, "False/MachineRejected", "True/MachineRejected", ""},
		"disk too small":    {func(w *world) { w.faults.Fail("CreateMachine", hosttest.Before, 1, host.ErrDiskTooSmall) }, "False/StorageTooSmall", "True/StorageTooSmall", ""},
		"not supported":     {func(w *world) { w.faults.Fail("CreateMachine", hosttest.Before, 1, host.ErrUnsupported) }, "False/UnsupportedBySmolvm", "", ""},
		"someone else's":    {func(w *world) { w.machines.Add(host.Machine{Name: testID, UID: "other", State: host.MachineRunning}) }, "False/MachineConflict", "", "remove it with smolvm"},
		"an unlabelled one": {func(w *world) { w.machines.Add(host.Machine{Name: testID, State: host.MachineStopped}) }, "False/MachineConflict", "", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, demo().Obj())
			tt.before(w)
			if _, err := w.pass(demoKey); err != nil {
				t.Fatal(err)
			}
			w.wantCond(demoKey, v1alpha1.ConditionMachineReady, tt.wantCond)
			w.wantCond(demoKey, v1alpha1.ConditionStalled, tt.wantStalled)
			if got := w.message(demoKey, v1alpha1.ConditionMachineReady); !strings.Contains(got, tt.wantMessage) {
				t.Errorf("message: got %q, want %q in it", got, tt.wantMessage)
			}
			if got := w.machines.Starts(testID); got != 0 {
				t.Errorf("starts: got %d, want none", got)
			}
			w.wantCond(demoKey, v1alpha1.ConditionEgressEnforced, "Unknown/Blocked")
		})
	}
}

func TestUnreachable(t *testing.T) {
	w := running(t)
	w.machines.SetState(testID, host.MachineUnreachable)
	for poll := range lifecycle.UnreachableThreshold {
		if err := w.r.view.Poll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if poll < lifecycle.UnreachableThreshold-1 {
			if _, err := w.pass(demoKey); err != nil {
				t.Fatal(err)
			}
			w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "False/MachineUnreachable")
			if got := w.machines.Starts(testID); got != 1 {
				t.Errorf("starts after %d polls: got %d, want 1", poll+1, got)
			}
		}
	}
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "True/MachineRunning")
	if st := w.bottle(demoKey).Status.Machine; *st.Restarts != 1 {
		t.Errorf("restarts: got %d, want 1", *st.Restarts)
	}
}

// While the boot of one Bottle takes forever, the other one runs.
func TestAStartDoesNotDelayOtherBottles(t *testing.T) {
	other := placed(demo().UID(otherOwner.UID)).Namespace("elsewhere").Obj()
	w := newWorld(t, demo().Obj(), other)
	slow := &slowStart{Machines: w.machines, name: testID, release: make(chan struct{})}
	w.change(func(o *Options) { o.Machines, o.FirstReportDelay = slow, time.Second })
	pass := func(k ctrl.Request) {
		if _, err := w.r.Reconcile(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	pass(ctrl.Request{NamespacedName: demoKey})
	if got := w.cond(demoKey, v1alpha1.ConditionMachineReady); got != "" {
		t.Errorf("MachineReady immediately after the start: got %q, want no report yet", got)
	}
	w.clock.Step(time.Second)
	pass(ctrl.Request{NamespacedName: demoKey})
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "False/MachineStarting")
	for i := 0; w.cond(key(other), v1alpha1.ConditionMachineReady) != "True/MachineRunning"; i++ {
		if i > 1000 {
			t.Fatalf("the other does not run: %s", w.describe(key(other)))
		}
		pass(ctrl.Request{NamespacedName: key(other)})
	}
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "False/MachineStarting")

	// Stopping the Bottle now cancels the start.
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
	pass(ctrl.Request{NamespacedName: demoKey})
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Stopped")
	if !errors.Is(slow.err, context.Canceled) {
		t.Errorf("start: got %v, want it canceled", slow.err)
	}
}

type slowStart struct {
	host.Machines
	name    string
	release chan struct{}
	err     error
}

func (s *slowStart) StartMachine(ctx context.Context, name, netns string) error {
	if name != s.name {
		return s.Machines.StartMachine(ctx, name, netns)
	}
	select {
	case <-s.release:
		return s.Machines.StartMachine(ctx, name, netns)
	case <-ctx.Done():
		s.err = ctx.Err()
		return ctx.Err()
	}
}

func TestANewMachineKeepsTheRestartCount(t *testing.T) {
	w := running(t)
	w.machines.Kill(testID)
	w.r.view.Invalidate(testID)
	w.settle(demoKey)
	startTime := w.bottle(demoKey).Status.StartTime
	w.annotate(v1alpha1.AnnotationRecreatedAt, "now")
	w.settle(demoKey)
	st := w.bottle(demoKey).Status
	if *st.Machine.Restarts != 1 || st.Machine.LastLoss == nil || !st.StartTime.Equal(startTime) {
		t.Errorf("got %d restarts, loss %v, start %v, want 1, the loss, %v", *st.Machine.Restarts, st.Machine.LastLoss, st.StartTime, startTime)
	}
}

func TestDeletingCancelsAStart(t *testing.T) {
	w := newWorld(t, demo().Obj())
	slow := &slowStart{Machines: w.machines, name: testID, release: make(chan struct{})}
	w.change(func(o *Options) { o.Machines = slow })
	if _, err := w.r.Reconcile(t.Context(), ctrl.Request{NamespacedName: demoKey}); err != nil {
		t.Fatal(err)
	}
	if !w.r.starts.Running(testUID) {
		t.Fatal("start: got none under way")
	}
	if err := w.api.Delete(t.Context(), w.bottle(demoKey)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.r.Reconcile(t.Context(), ctrl.Request{NamespacedName: demoKey}); err != nil {
		t.Fatal(err)
	}
	if w.r.starts.Running(testUID) {
		t.Errorf("start: got it under way, want it canceled")
		close(slow.release)
	}
	w.r.starts.Wait()
	w.wantEmpty()
}

// The machine appears after the last poll.
func TestAnOldListCreatesNoMachine(t *testing.T) {
	w := newWorld(t, demo().Obj())
	if err := w.r.view.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.machines.Add(host.Machine{Name: testID, UID: testUID, State: host.MachineRunning, PID: 7, StartTime: epoch})
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "True/MachineRunning")
	if got := w.writingCalls(); slices.ContainsFunc(got, func(c string) bool { return strings.HasPrefix(c, "CreateMachine") }) {
		t.Errorf("calls: got %v, want no machine created", got)
	}
}
