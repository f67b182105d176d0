// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/supervise"
)

// supervised returns a world with a running Bottle that has a command and this policy.
func supervised(t *testing.T, policy v1alpha1.RestartPolicy, change ...func(*v1alpha1.Bottle)) *world {
	t.Helper()
	b := demo().Command("run", "it").Obj()
	b.Spec.RestartPolicy = policy
	for _, f := range change {
		f(b)
	}
	w := newWorld(t, b)
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	w.events()
	w.api.reset()
	return w
}

// ended is the report of a command that ended with this exit code for good.
func ended(w *world, code int32) supervise.Report {
	now := w.clock.Now()
	return supervise.Report{StartTime: now.Add(-time.Second), FinishTime: now, ExitCode: ptr.To(code), Final: true}
}

func TestAWorkloadThatEnds(t *testing.T) {
	tests := map[string]struct {
		policy                   v1alpha1.RestartPolicy
		report                   func(*world) supervise.Report
		finished, ready, stalled string
		message                  string
		exitCode                 *int32
		signal                   *string
	}{
		"0, OnFailure": {v1alpha1.RestartOnFailure, func(w *world) supervise.Report { return ended(w, 0) },
			"True/Completed", "True/Completed", "", "exit code 0", ptr.To[int32](0), nil},
		"0, Never": {v1alpha1.RestartNever, func(w *world) supervise.Report { return ended(w, 0) },
			"True/Completed", "True/Completed", "", "exit code 0", ptr.To[int32](0), nil},
		"42, Never": {v1alpha1.RestartNever, func(w *world) supervise.Report { return ended(w, 42) },
			"True/Failed", "False/Failed", "True/Failed", "exit code 42", ptr.To[int32](42), nil},
		"no such command": {v1alpha1.RestartNever, func(w *world) supervise.Report { return ended(w, 127) },
			"True/Failed", "False/Failed", "True/Failed", "does not exist", ptr.To[int32](127), nil},
		"signal": {v1alpha1.RestartNever, func(w *world) supervise.Report {
			r := ended(w, 0)
			r.ExitCode, r.Signal = nil, 9
			return r
		}, "True/Failed", "False/Failed", "True/Failed", "SIGKILL", nil, ptr.To("SIGKILL")},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := supervised(t, tt.policy)
			w.exchange.Put(testUID, tt.report(w))
			w.settle(demoKey)
			w.wantCond(demoKey, v1alpha1.ConditionFinished, tt.finished)
			w.wantCond(demoKey, v1alpha1.ConditionReady, tt.ready)
			w.wantCond(demoKey, v1alpha1.ConditionStalled, tt.stalled)
			_, reason, _ := strings.Cut(tt.finished, "/")
			w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "False/"+reason)
			w.wantCond(demoKey, v1alpha1.ConditionEgressEnforced, "Unknown/"+reason)
			w.wantCond(demoKey, v1alpha1.ConditionReconciling, "")
			if got := w.message(demoKey, v1alpha1.ConditionFinished); !strings.Contains(got, tt.message) {
				t.Errorf("message: got %q, want %q in it", got, tt.message)
			}
			b := w.bottle(demoKey)
			got := b.Status.Workload
			if got == nil || got.FinishTime == nil {
				t.Fatalf("workload: got %+v, want one that has ended", got)
			}
			if d := cmp.Diff(tt.exitCode, got.ExitCode) + cmp.Diff(tt.signal, got.Signal); d != "" {
				t.Errorf("end (-want +got):\n%s", d)
			}
			if b.Status.ObservedGeneration == nil || *b.Status.ObservedGeneration != b.Generation {
				t.Errorf("observedGeneration: got %v, want %d", b.Status.ObservedGeneration, b.Generation)
			}
			if b.Status.StartTime == nil {
				t.Error("startTime: got none, want the time at which the machine first ran")
			}
			w.wantDown()
			w.wantEvent(reason)
			before := len(w.api.log())
			w.clock.Step(time.Hour)
			w.settle(demoKey)
			if got := len(w.api.log()); got != before {
				t.Errorf("writes of a finished Bottle: got %d more, want none", got-before)
			}
		})
	}
}

// wantDown checks what is left of a finished Bottle on the node.
func (w *world) wantDown() {
	w.t.Helper()
	if m, _, ok := w.machines.Get(testID); !ok || m.State != host.MachineStopped {
		w.t.Errorf("machine: got %v %v, want it stopped", ok, m.State)
	}
	if b := w.bundles.All()[testID]; b.Running || b.ContainerID == "" {
		w.t.Errorf("bundle: got %+v, want it stopped", b)
	}
	if ids := w.walls.IDs(); len(ids) != 0 {
		w.t.Errorf("walls: got %v, want none", ids)
	}
}

func typesOf(conditions []metav1.Condition) (types []string) {
	for _, c := range conditions {
		types = append(types, c.Type)
	}
	slices.Sort(types)
	return types
}
