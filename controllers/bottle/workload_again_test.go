// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"errors"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/internal/supervise"
)

func (w *world) wantMachine(running bool) {
	w.t.Helper()
	if m, _, _ := w.machines.Get(testID); (m.State == host.MachineRunning) != running {
		w.t.Errorf("machine: got it %s, want running: %t", m.State, running)
	}
}

// As long as the API server says that the Bottle has finished, the manager may release
// what is booked. A machine that starts then could run unbooked.
func TestAStartWaitsUntilNothingCanBeReleased(t *testing.T) {
	for annotation, condition := range map[string]string{v1alpha1.AnnotationRestartedAt: "", v1alpha1.AnnotationFilesAt: "True/Copying"} {
		t.Run(annotation, func(t *testing.T) {
			w := supervised(t, v1alpha1.RestartNever)
			w.exchange.Put(testUID, ended(w, 42))
			w.settle(demoKey)
			w.annotate(annotation, "again") // the manager has released nothing yet
			_, _ = w.pass(demoKey)
			w.wantMachine(false)
			w.wantCond(demoKey, v1alpha1.ConditionFilesOpen, condition)
			for range 20 {
				_, _ = w.pass(demoKey)
			}
			w.wantMachine(true)
		})
	}
}

func TestAnUnbookedMachineIsStopped(t *testing.T) {
	w := finishedWorld(t, v1alpha1.RestartNever, 42)
	w.annotate(v1alpha1.AnnotationRestartedAt, "again")
	w.book()
	w.settle(demoKey)
	w.wantMachine(true)
	w.release()
	w.settle(demoKey)
	w.wantMachine(false)
	w.wantCond(demoKey, v1alpha1.ConditionFinished, "")
	w.book()
	w.settle(demoKey)
	w.wantMachine(true)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
}

// spec.machine became smaller while the Bottle was finished, so less is booked than its
// machine needs.
func TestAMachineThatNeedsMoreThanIsBooked(t *testing.T) {
	bookLess := func(w *world) {
		w.update(demoKey, func(b *v1alpha1.Bottle) {
			b.Status.Resources = &v1alpha1.ResourcesStatus{CPUs: 1, Memory: resource.MustParse("2Gi")}
		})
	}
	t.Run("restart", func(t *testing.T) {
		w := finishedWorld(t, v1alpha1.RestartNever, 42)
		w.annotate(v1alpha1.AnnotationRestartedAt, "again")
		bookLess(w)
		w.settle(demoKey)
		w.wantMachine(false)
		w.wantCond(demoKey, v1alpha1.ConditionFinished, "True/Failed")
		w.wantCond(demoKey, v1alpha1.ConditionStalled, "True/Failed")
		if got := w.message(demoKey, v1alpha1.ConditionFinished); !strings.Contains(got, "--cpus=2") {
			t.Errorf("message: got %q, want the machine's size in it", got)
		}
		w.release()
		w.annotate(v1alpha1.AnnotationRestartedAt, "and again")
		w.settle(demoKey)
		w.book()
		w.settle(demoKey)
		w.wantMachine(true)
		w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	})
	t.Run("recreate", func(t *testing.T) {
		w := finishedWorld(t, v1alpha1.RestartNever, 42)
		w.annotate(v1alpha1.AnnotationRecreatedAt, "again")
		bookLess(w)
		w.settle(demoKey)
		w.wantMachine(true)
		w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	})
	t.Run("files", func(t *testing.T) {
		w := finishedWorld(t, v1alpha1.RestartNever, 42)
		w.annotate(v1alpha1.AnnotationFilesAt, "1")
		bookLess(w)
		w.settleShortly()
		w.wantMachine(false)
		w.wantCond(demoKey, v1alpha1.ConditionFilesOpen, "True/Copying")
		if got := w.message(demoKey, v1alpha1.ConditionMachineReady); !strings.Contains(got, "--cpus=2") {
			t.Errorf("message: got %q, want the machine's size in it", got)
		}
	})
}

// The manager keeps the start time of a Bottle whose node was lost, so its deadline stays.
func TestTheDeadlineOfABottleThatBeganElsewhere(t *testing.T) {
	w := supervised(t, v1alpha1.RestartAlways, withDeadline, func(b *v1alpha1.Bottle) {
		b.Status.StartTime = ptr.To(metav1.NewTime(epoch.Add(-59 * time.Minute)))
	})
	w.clock.Step(2 * time.Minute)
	w.settleShortly()
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionFinished, "True/DeadlineExceeded")
}

// With Never, a command that has started does not start a second time, although no pass
// saw its machine run.
func TestAMachineThatIsLostBeforeAnybodySawItRun(t *testing.T) {
	for policy, want := range map[v1alpha1.RestartPolicy]string{v1alpha1.RestartNever: "True/Failed", v1alpha1.RestartAlways: ""} {
		t.Run(string(policy), func(t *testing.T) {
			b := demo().Command("run").Obj()
			b.Spec.RestartPolicy = policy
			w := newWorld(t, b)
			for w.machines.Starts(testID) == 0 {
				_, _ = w.pass(demoKey)
				w.clock.Step(time.Second)
			}
			w.exchange.Put(testUID, supervise.Report{StartTime: w.clock.Now()})
			w.machines.Kill(testID)
			w.r.view.Invalidate(testID)
			w.restartAgent()
			w.settle(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionFinished, want)
			w.wantMachine(want == "")
		})
	}
}

// A stop that failed and that nobody wants any more does not make reports meaningless.
func TestAStopThatFailedAndWasWithdrawn(t *testing.T) {
	w := supervised(t, v1alpha1.RestartNever)
	w.faults.Fail("StopMachine", hosttest.Before, hosttest.Always, errors.New("smolvm was killed"))
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
	w.settleShortly()
	w.faults.Heal()
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateRunning })
	w.settle(demoKey)
	w.wantMachine(true)
	w.exchange.Put(testUID, ended(w, 0))
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionFinished, "True/Completed")
}

// No machine of a Bottle runs while spec.desiredState is Stopped, not even for copies.
func TestFilesOfAStoppedBottle(t *testing.T) {
	w := finishedWorld(t, v1alpha1.RestartNever, 42)
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
	w.annotate(v1alpha1.AnnotationFilesAt, "1")
	w.book()
	w.settleShortly()
	w.wantMachine(false)
	w.wantCond(demoKey, v1alpha1.ConditionFilesOpen, "")
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateRunning })
	for range 20 {
		_, _ = w.pass(demoKey)
	}
	w.wantMachine(true)
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
	w.settle(demoKey)
	w.wantMachine(false)
	w.wantCond(demoKey, v1alpha1.ConditionFilesOpen, "")
	w.wantCond(demoKey, v1alpha1.ConditionReady, "False/Failed")
}

// A copy that begins while the machine is being stopped after another one is served, too.
func TestACopyWhileFilesAreBeingClosed(t *testing.T) {
	w := finishedWorld(t, v1alpha1.RestartNever, 42)
	w.annotate(v1alpha1.AnnotationFilesAt, "1")
	w.book()
	for range 20 {
		_, _ = w.pass(demoKey)
	}
	w.wantMachine(true)
	w.clock.Step(time.Hour)
	_, _ = w.pass(demoKey)
	w.wantMachine(false)
	w.wantCond(demoKey, v1alpha1.ConditionFilesOpen, "True/Copying")
	w.annotate(v1alpha1.AnnotationFilesAt, "2")
	for range 20 {
		_, _ = w.pass(demoKey)
	}
	w.wantMachine(true)
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "True/MachineRunning")
	w.clock.Step(time.Hour)
	w.settle(demoKey)
	w.wantMachine(false)
	w.wantCond(demoKey, v1alpha1.ConditionFilesOpen, "")
}

// The outcome of the earlier run does not show once the Bottle runs again, even if the
// first write that removes it fails.
func TestTheEarlierRunIsForgotten(t *testing.T) {
	w := finishedWorld(t, v1alpha1.RestartNever, 42)
	w.annotate(v1alpha1.AnnotationRestartedAt, "again")
	w.api.fail = func(string) error { return errors.New("the API server is away") }
	_, _ = w.pass(demoKey)
	w.api.fail = nil
	w.settle(demoKey)
	if b := w.bottle(demoKey); b.Status.Workload != nil || b.Status.StartTime != nil {
		t.Errorf("got workload %+v, startTime %v, want neither", b.Status.Workload, b.Status.StartTime)
	}
}
