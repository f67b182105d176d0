// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/internal/supervise"
	"botbottle.dev/bottle-operator/internal/workload"
)

func TestAReportThatEndsNothing(t *testing.T) {
	tests := map[string]struct {
		policy v1alpha1.RestartPolicy
		report func(*supervise.Report)
	}{
		"of another start":    {v1alpha1.RestartNever, func(r *supervise.Report) { r.Start = "another" }},
		"not final":           {v1alpha1.RestartNever, func(r *supervise.Report) { r.Final = false }},
		"final, Always":       {v1alpha1.RestartAlways, func(*supervise.Report) {}},
		"3, final, OnFailure": {v1alpha1.RestartOnFailure, func(r *supervise.Report) { r.ExitCode = ptr.To[int32](3) }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := supervised(t, tt.policy)
			r := ended(w, 0)
			tt.report(&r)
			w.exchange.Put(testUID, r)
			w.settle(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionFinished, "")
			w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
			if got := w.machines.Starts(testID); got != 1 {
				t.Errorf("starts: got %d, want 1", got)
			}
		})
	}
}

// The supervisor decided by a policy that changed at the same time, so that only another
// start of the machine starts the command again. A guest cannot cause that at will.
func TestAPolicyThatChangesAtTheEnd(t *testing.T) {
	w := supervised(t, v1alpha1.RestartNever)
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.RestartPolicy = v1alpha1.RestartAlways })
	w.exchange.Put(testUID, ended(w, 0))
	w.settle(demoKey)
	if got := w.machines.Starts(testID); got != 1 {
		t.Errorf("starts within a minute: got %d, want 1", got)
	}
	w.clock.Step(time.Hour)
	w.settle(demoKey)
	if got := w.machines.Starts(testID); got != 2 {
		t.Errorf("starts: got %d, want 2", got)
	}
	if got := w.exchange.Orders(testUID); got.RestartPolicy != "Always" || got.Restarts != 1 {
		t.Errorf("orders: got %+v, want policy Always after 1 restart", got)
	}
	w.wantCond(demoKey, v1alpha1.ConditionFinished, "")
}

func TestPausesAreReportedAtMostOnceAMinute(t *testing.T) {
	w := supervised(t, v1alpha1.RestartAlways)
	pause := func(restarts int32) supervise.Report {
		now := w.clock.Now()
		return supervise.Report{StartTime: now, FinishTime: now, ExitCode: ptr.To[int32](3), Restarts: restarts, NextStartTime: now.Add(10 * time.Second)}
	}
	w.exchange.Put(testUID, pause(0))
	w.settle(demoKey)
	w.clock.Step(workloadPause)
	w.exchange.Put(testUID, pause(1))
	_, _ = w.pass(demoKey)
	w.api.reset()
	for n := range int32(20) {
		w.clock.Step(time.Second)
		w.exchange.Put(testUID, pause(2+n))
		_, _ = w.pass(demoKey)
	}
	if got := len(w.api.log()); got != 0 {
		t.Errorf("writes within 20 s: got %d, want none", got)
	}
	w.clock.Step(workloadPause)
	w.settle(demoKey)
	st := w.bottle(demoKey).Status.Workload
	if st == nil || *st.Restarts != 21 || st.NextStartTime == nil || *st.ExitCode != 3 {
		t.Errorf("workload: got %+v, want a pause after 21 restarts", st)
	}
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
}

const workloadPause = time.Minute

// The agent ignores its own writes, so that no pass follows the one that reports Ready.
func TestAWorkloadThatStartsDuringTheProofIsReportedWithIt(t *testing.T) {
	w := newWorld(t, demo().Command("run", "it").Obj())
	passUntil := func(want string) {
		t.Helper()
		for range 60 {
			if w.cond(demoKey, v1alpha1.ConditionReady) == want {
				return
			}
			if _, err := w.pass(demoKey); err != nil {
				t.Fatal(err)
			}
			w.clock.Step(time.Second)
		}
		t.Fatalf("Ready: got %s, want %s", w.cond(demoKey, v1alpha1.ConditionReady), want)
	}
	passUntil("False/Proving")
	w.exchange.Put(testUID, supervise.Report{StartTime: w.clock.Now()})
	passUntil("True/Ready")
	if w.bottle(demoKey).Status.Workload == nil {
		t.Error("workload: got none, want it reported together with Ready")
	}
}

func TestALostMachineWithAWorkload(t *testing.T) {
	for policy, want := range map[v1alpha1.RestartPolicy]string{
		v1alpha1.RestartNever: "True/Failed", v1alpha1.RestartOnFailure: "", v1alpha1.RestartAlways: "",
	} {
		t.Run(string(policy), func(t *testing.T) {
			w := supervised(t, policy)
			w.exchange.Put(testUID, supervise.Report{StartTime: w.clock.Now()})
			w.machines.Kill(testID)
			w.r.view.Invalidate(testID)
			w.settle(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionFinished, want)
			w.wantEvent(eventMachineLost)
			if want != "" {
				if got := w.message(demoKey, v1alpha1.ConditionFinished); !strings.Contains(got, "machine was lost") {
					t.Errorf("message: got %q, want it to say that the machine was lost", got)
				}
				w.wantDown()
				return
			}
			w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
			if got := w.exchange.Orders(testUID).Restarts; got != 1 {
				t.Errorf("restarts: got %d, want 1", got)
			}
		})
	}
}

func withDeadline(b *v1alpha1.Bottle) {
	b.Spec.Lifetime = &v1alpha1.Lifetime{ActiveDeadlineSeconds: ptr.To[int64](3600)}
}

func TestTheDeadline(t *testing.T) {
	tests := map[string]struct {
		before func(w *world)
		stops  int
	}{
		"running":        {func(*world) {}, 1},
		"docker is down": {func(w *world) { w.faults.Fail("InspectNetwork", hosttest.Before, hosttest.Always, host.ErrUnavailable) }, 1},
		"down": {func(w *world) {
			w.faults.Fail("StartMachine", hosttest.Before, hosttest.Always, host.ErrBootFailed)
			w.machines.Kill(testID)
			w.r.view.Invalidate(testID)
			w.settle(demoKey)
		}, 0},
		"the agent restarts": {func(w *world) { w.restartAgent() }, 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := supervised(t, v1alpha1.RestartAlways, withDeadline)
			began := w.bottle(demoKey).Status.StartTime
			tt.before(w)
			w.clock.SetTime(began.Add(time.Hour - time.Second))
			w.settleShortly()
			w.wantCond(demoKey, v1alpha1.ConditionFinished, "")
			w.clock.Step(2 * time.Second)
			w.settleShortly()
			w.faults.Heal()
			w.settle(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionFinished, "True/DeadlineExceeded")
			w.wantCond(demoKey, v1alpha1.ConditionReady, "False/DeadlineExceeded")
			w.wantCond(demoKey, v1alpha1.ConditionStalled, "True/DeadlineExceeded")
			w.wantDown()
			if w.guest.stops != tt.stops {
				t.Errorf("requests to the workload to end: got %d, want %d", w.guest.stops, tt.stops)
			}
		})
	}
}

// settleShortly makes a few passes without moving the clock.
func (w *world) settleShortly() {
	for range 6 {
		_, _ = w.pass(demoKey)
	}
}

// finishedWorld returns a world whose Bottle has finished and was released.
func finishedWorld(t *testing.T, policy v1alpha1.RestartPolicy, code int32) *world {
	t.Helper()
	w := supervised(t, policy)
	w.exchange.Put(testUID, ended(w, code))
	w.settle(demoKey)
	w.release()
	w.settle(demoKey)
	return w
}

func (w *world) release() {
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Status.Resources = nil })
}

func (w *world) book() {
	w.update(demoKey, func(b *v1alpha1.Bottle) {
		b.Status.Resources = &v1alpha1.ResourcesStatus{CPUs: 2, Memory: resource.MustParse("2Gi")}
	})
}

func TestAFinishedBottleRunsAgain(t *testing.T) {
	for annotation, starts := range map[string]int{v1alpha1.AnnotationRestartedAt: 2, v1alpha1.AnnotationRecreatedAt: 1} {
		t.Run(annotation, func(t *testing.T) {
			w := finishedWorld(t, v1alpha1.RestartNever, 42)
			began := w.bottle(demoKey).Status.StartTime
			w.clock.Step(time.Hour)
			w.annotate(annotation, "again")
			w.settle(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionFinished, "")
			w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "False/MachineStarting")
			if b := w.bottle(demoKey); b.Status.StartTime != nil || b.Status.Workload != nil {
				t.Errorf("got startTime %v, workload %+v, want neither", b.Status.StartTime, b.Status.Workload)
			}
			if m, _, _ := w.machines.Get(testID); m.State == host.MachineRunning {
				t.Errorf("the machine runs, although nothing is booked for it")
			}
			w.book()
			w.settle(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
			if got := w.bottle(demoKey).Status.StartTime; got == nil || got.Equal(began) {
				t.Errorf("startTime: got %v, want it later than %v", got, began)
			}
			if got := w.machines.Starts(testID); got != starts {
				t.Errorf("starts of the machine: got %d, want %d", got, starts)
			}
			if got := w.exchange.Orders(testUID); got.Restarts != 0 || got.Workload != supervise.Run {
				t.Errorf("orders: got %+v, want a first run", got)
			}
			w.exchange.Put(testUID, ended(w, 0))
			w.settle(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionFinished, "True/Completed")
		})
	}
}

// openSessions is a Sessions with one session.
type openSessions struct {
	open int
	last time.Time
}

func (o *openSessions) Sessions(string) (int, time.Time) { return o.open, o.last }

func TestFilesOfAFinishedBottle(t *testing.T) {
	for name, ready := range map[string]string{"0": "True/Completed", "42": "False/Failed"} {
		t.Run(name, func(t *testing.T) {
			w := finishedWorld(t, v1alpha1.RestartNever, map[string]int32{"0": 0, "42": 42}[name])
			sessions := &openSessions{}
			w.sessions = sessions
			w.restartAgent()
			finished := w.bottle(demoKey).Status.Conditions
			w.annotate(v1alpha1.AnnotationFilesAt, "1")
			w.settle(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionFilesOpen, "True/Copying")
			if got := w.machines.Starts(testID); got != 1 {
				t.Fatalf("starts before anything is booked: got %d, want 1", got)
			}
			w.book()
			for range 20 {
				_, _ = w.pass(demoKey)
			}
			w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "True/MachineRunning")
			w.wantCond(demoKey, v1alpha1.ConditionEgressEnforced, "True/HostWall")
			w.wantCond(demoKey, v1alpha1.ConditionReady, ready)
			if got := w.exchange.Orders(testUID); got.Workload != supervise.Idle {
				t.Errorf("orders: got %+v, want none to run", got)
			}
			sessions.open, sessions.last = 1, w.clock.Now()
			w.clock.Step(time.Hour)
			_, _ = w.pass(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionFilesOpen, "True/Copying")
			sessions.open, sessions.last = 0, w.clock.Now()
			w.clock.Step(59 * time.Second)
			_, _ = w.pass(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionFilesOpen, "True/Copying")
			w.clock.Step(2 * time.Second)
			w.settle(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionFilesOpen, "")
			w.wantCond(demoKey, v1alpha1.ConditionReady, ready)
			w.wantDown()
			if got := w.bottle(demoKey).Status.Conditions; !slices.Equal(typesOf(got), typesOf(finished)) {
				t.Errorf("conditions: got %v, want %v", typesOf(got), typesOf(finished))
			}
			if got := w.machines.Starts(testID); got != 2 {
				t.Errorf("starts: got %d, want 2", got)
			}
		})
	}
}

func TestSessionsAreWaitedFor(t *testing.T) {
	w := supervised(t, v1alpha1.RestartNever)
	w.sessions = &openSessions{open: 1}
	w.restartAgent()
	w.exchange.Put(testUID, ended(w, 0))
	w.settleShortly()
	if m, _, _ := w.machines.Get(testID); m.State != host.MachineRunning {
		t.Errorf("machine: got it %s, want it running while files are copied", m.State)
	}
	w.clock.Step(31 * time.Second)
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionFinished, "True/Completed")
}

func TestAStoppedMachineHasNotFinished(t *testing.T) {
	w := supervised(t, v1alpha1.RestartNever)
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
	w.settle(demoKey)
	w.exchange.Put(testUID, ended(w, 143)) // while the machine was shut down
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Stopped")
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateRunning })
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	w.wantCond(demoKey, v1alpha1.ConditionFinished, "")
}

func TestAWorkloadIsHeld(t *testing.T) {
	b := demo().Command("run").Obj()
	b.Annotations = map[string]string{v1alpha1.AnnotationHold: ""}
	w := newWorld(t, b)
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	before := w.exchange.Orders(testUID)
	if before.Workload != supervise.Idle {
		t.Errorf("orders: got %+v, want none to run", before)
	}
	w.update(demoKey, func(b *v1alpha1.Bottle) { delete(b.Annotations, v1alpha1.AnnotationHold) })
	w.settle(demoKey)
	if got := w.exchange.Orders(testUID); got.Workload != supervise.Run || got.Start != before.Start {
		t.Errorf("orders: got %+v, want the same start to run", got)
	}
	w.annotate(v1alpha1.AnnotationHold, "")
	w.settle(demoKey)
	if got := w.exchange.Orders(testUID); got.Workload != supervise.Run {
		t.Errorf("orders once it runs: got %+v, want it to run", got)
	}
}

func TestAChangedPolicyIsLive(t *testing.T) {
	w := supervised(t, v1alpha1.RestartAlways)
	before := w.exchange.Orders(testUID)
	w.update(demoKey, func(b *v1alpha1.Bottle) {
		b.Spec.RestartPolicy, b.Spec.Stdin = v1alpha1.RestartNever, v1alpha1.StdinOpen
	})
	w.settle(demoKey)
	got := w.exchange.Orders(testUID)
	if got.RestartPolicy != "Never" || got.Start != before.Start || got.Stdin != before.Stdin {
		t.Errorf("orders: got %+v, want only the policy of %+v changed", got, before)
	}
	w.wantCond(demoKey, v1alpha1.ConditionPendingRestart, "")
}

func TestWhatIsSupervised(t *testing.T) {
	old := hosttest.ReferenceVersion
	old.Version, old.Command = "1.8.3", false
	tests := map[string]struct {
		command, image []string
		version        host.SmolvmVersion
		want           []string // the machine's command
		mounts         int
		message        string
	}{
		"spec.command":        {[]string{"a"}, []string{"b", "c"}, hosttest.ReferenceVersion, workload.Command([]string{"a"}), 2, ""},
		"the image's command": {nil, []string{"b", "c"}, hosttest.ReferenceVersion, workload.Command([]string{"b", "c"}), 2, ""},
		"neither":             {nil, nil, hosttest.ReferenceVersion, nil, 0, ""},
		"old smolvm":          {nil, []string{"b"}, old, nil, 0, "smolvm 1.8.3 is older than 1.9"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := demo().Obj()
			b.Spec.Command = tt.command
			w := newWorld(t, b)
			w.machines.SetVersion(tt.version)
			w.images.SetCommand(tt.image...)
			w.settle(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
			_, spec, _ := w.machines.Get(testID)
			if !slices.Equal(spec.Command, tt.want) || len(spec.Mounts) != tt.mounts {
				t.Errorf("machine: got command %q, mounts %v, want %q and %d", spec.Command, spec.Mounts, tt.want, tt.mounts)
			}
			for _, m := range spec.Mounts {
				if m.Writable != (m.Target == supervise.Out) {
					t.Errorf("mount %+v: want only the folder for reports writable", m)
				}
			}
			if got := w.message(demoKey, v1alpha1.ConditionMachineReady); !strings.Contains(got, tt.message) || tt.message == "" && strings.Contains(got, "Finished") {
				t.Errorf("message: got %q, want %q in it", got, tt.message)
			}
		})
	}
}

// The state directory was lost: a Bottle that has finished must not run a second time.
func TestAFinishedBottleWithoutARecord(t *testing.T) {
	w := finishedWorld(t, v1alpha1.RestartNever, 42)
	_ = w.machines.DeleteMachine(t.Context(), testID)
	w.stateDir = t.TempDir()
	w.restartAgent()
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionFinished, "True/Failed")
	w.wantCond(demoKey, v1alpha1.ConditionReady, "False/Failed")
	if names := w.machines.Names(); len(names) != 0 {
		t.Errorf("machines: got %v, want none", names)
	}
}

func TestAfterAReboot(t *testing.T) {
	w := supervised(t, v1alpha1.RestartAlways)
	w.exchange.Reboot()
	w.machines.Kill(testID)
	w.restartAgent()
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	if got := w.exchange.Left(); len(got) != 2 {
		t.Errorf("exchanges: got %v, want In and Out", got)
	}
}

func TestEveryHostCallMayFailOnceWhileFinishing(t *testing.T) {
	finish := func(t *testing.T, prepare func(w *world)) *world {
		w := supervised(t, v1alpha1.RestartNever, withDeadline)
		w.faults.ResetCalls()
		prepare(w)
		w.clock.Step(2 * time.Hour)
		w.settle(demoKey)
		w.settle(demoKey)
		return w
	}
	good := finish(t, func(*world) {})
	good.wantCond(demoKey, v1alpha1.ConditionFinished, "True/DeadlineExceeded")
	for _, call := range methods(good.faults.Calls()) {
		for word, when := range failureModes(call) {
			t.Run(call+" "+word, func(t *testing.T) {
				t.Parallel()
				w := finish(t, func(w *world) { w.faults.Fail(call, when, 1, errors.New("reply lost")) })
				w.wantSame(good)
			})
		}
	}
}

func TestLostOutputIsReportedOnce(t *testing.T) {
	w := supervised(t, v1alpha1.RestartAlways)
	w.exchange.Put(testUID, supervise.Report{StartTime: w.clock.Now(), LostOutput: 1 << 20})
	w.settle(demoKey)
	w.wantEvent("OutputLost")
	w.settle(demoKey)
	if got := w.events(); len(got) != 0 {
		t.Errorf("events: got %v, want no more", got)
	}
}

// A command may end before smolvm has reported that its machine runs. A cancelled start
// would kill the VMM, and what the command wrote last would be lost.
func TestACommandThatEndsDuringTheStart(t *testing.T) {
	w := supervised(t, v1alpha1.RestartNever)
	w.exchange.Put(testUID, ended(w, 0))
	started := make(chan struct{})
	w.r.starts.Start(w.r.ownerOf(w.bottle(demoKey)), func(ctx context.Context) error {
		select {
		case <-started:
			return nil
		case <-ctx.Done():
			t.Error("the start was cancelled")
			return ctx.Err()
		}
	}, func() {})
	if _, err := w.r.Reconcile(t.Context(), ctrl.Request{NamespacedName: demoKey}); err != nil {
		t.Fatal(err)
	}
	if m, _, _ := w.machines.Get(testID); m.State != host.MachineRunning {
		t.Errorf("machine: got it %s during its start, want it running", m.State)
	}
	close(started)
	w.r.starts.Wait()
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionFinished, "True/Completed")
}

// startTime is there even if no pass saw the machine run.
func TestTheStartTimeOfAShortRun(t *testing.T) {
	b := demo().Command("true").Obj()
	b.Spec.RestartPolicy = v1alpha1.RestartNever
	w := newWorld(t, b)
	for w.machines.Starts(testID) == 0 {
		_, _ = w.pass(demoKey)
		w.clock.Step(time.Second)
	}
	w.exchange.Put(testUID, ended(w, 0))
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionFinished, "True/Completed")
	if got := w.bottle(demoKey).Status; got.StartTime == nil || got.Workload == nil {
		t.Errorf("got startTime %v, workload %+v, want both", got.StartTime, got.Workload)
	}
}

// TestTheMachineStaysUntilItsLogIsComplete: output that is on the way to the log when the
// machine is stopped would be lost.
func TestTheMachineStaysUntilItsLogIsComplete(t *testing.T) {
	for name, complete := range map[string]bool{"the end arrives": true, "the end never arrives": false} {
		t.Run(name, func(t *testing.T) {
			w := supervised(t, v1alpha1.RestartNever)
			write := func(text string) {
				if err := w.machines.AppendLog(testID, host.WorkloadLog, text); err != nil {
					t.Fatal(err)
				}
			}
			write("2026-01-02T03:04:05Z stdout F almost all\n")
			w.exchange.Put(testUID, ended(w, 0))
			for range 5 {
				_, _ = w.pass(demoKey)
			}
			w.wantCond(demoKey, v1alpha1.ConditionFinished, "")
			if complete {
				write("2026-01-02T03:04:05Z system F exit 0\n")
			} else {
				w.clock.Step(time.Minute)
			}
			w.settle(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionFinished, "True/Completed")
		})
	}
}
