// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/internal/supervise"
)

// Exit codes that a supervisor reports for a command that it could not start.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

// counts returns the report if it is of the current start of the machine.
func counts(f Facts) *supervise.Report {
	if f.Record == nil || f.Report == nil || f.Record.Workload.Start == "" || f.Report.Start != f.Record.Workload.Start {
		return nil
	}
	return f.Report
}

// Ended reports whether the workload ended by itself and the supervisor does not start
// it again.
func Ended(f Facts) bool {
	r := counts(f)
	return r != nil && r.Final && !f.Record.Workload.Idle && !f.Record.Workload.Stopping
}

// endOf returns how the Bottle ends according to the report; nil if it does not.
func endOf(f Facts) *state.End {
	if !Ended(f) {
		return nil
	}
	policy := f.Bottle.Spec.RestartPolicy
	succeeded := f.Report.ExitCode != nil && *f.Report.ExitCode == 0 && f.Report.Signal == 0
	switch {
	case policy == v1alpha1.RestartOnFailure && succeeded, policy == v1alpha1.RestartNever && succeeded:
		return &state.End{Reason: v1alpha1.ReasonCompleted, Message: "the command ended with exit code 0"}
	case policy == v1alpha1.RestartNever:
		return &state.End{Reason: v1alpha1.ReasonFailed, Message: how(f.Report)}
	}
	return nil
}

// NeedsStart reports whether the workload has ended in a way that spec.restartPolicy
// wants it started again, but the supervisor does not do that, because the policy
// changed after its decision. The machine must start again.
func NeedsStart(f Facts) bool { return Ended(f) && endOf(f) == nil }

// Lost returns how a Bottle ends whose machine was lost; nil if the machine starts
// again.
func Lost(f Facts, cause string) *state.End {
	w := f.Record.Workload
	if w.Out == "" || w.Idle || w.Stopping || w.Finished != nil || f.Bottle.Spec.RestartPolicy != v1alpha1.RestartNever {
		return nil
	}
	return &state.End{Reason: v1alpha1.ReasonFailed, Message: "the machine was lost while the command ran: " + cause}
}

// LostUnseen returns how a Bottle ends whose machine ended before the agent saw it run,
// but not before its command had started; nil if the machine starts again.
func LostUnseen(f Facts) *state.End {
	if r := counts(f); r == nil || r.StartTime.IsZero() {
		return nil
	}
	return Lost(f, "it ended before the agent saw it run")
}

func how(r *supervise.Report) string {
	if name := signalName(r.Signal); name != "" {
		return "the command was ended by " + name
	}
	if r.ExitCode == nil || *r.ExitCode < 0 || *r.ExitCode > 255 {
		return "the command ended, and the guest does not say how"
	}
	switch *r.ExitCode {
	case exitNotFound:
		return "the command ended with exit code 127: it does not exist, or it says so itself"
	case exitNotExecutable:
		return "the command ended with exit code 126: it cannot be run, or it says so itself"
	}
	return fmt.Sprintf("the command ended with exit code %d", *r.ExitCode)
}

// signalName returns the name of a signal, such as SIGKILL; "" if there is no such signal.
func signalName(n int) string {
	const realTime, last = 32, 64
	switch {
	case n < 1 || n > last:
		return ""
	case n >= realTime:
		return fmt.Sprintf("SIGRT%d", n-realTime)
	}
	return unix.SignalName(unix.Signal(n))
}

// Status returns what status.workload says. old is what it said before; a report of
// another start changes nothing.
func Status(f Facts, old *v1alpha1.WorkloadStatus) *v1alpha1.WorkloadStatus {
	r := counts(f)
	if r == nil || f.Record.Workload.Idle || r.StartTime.IsZero() && !r.Final {
		return old
	}
	earliest := Began(f.Record)
	if earliest.IsZero() {
		earliest = f.Now
	}
	started := between(r.StartTime, earliest, f.Now)
	st := &v1alpha1.WorkloadStatus{StartTime: timeOf(started), Restarts: ptr.To(max(0, r.Restarts))}
	if name := signalName(r.Signal); name != "" {
		st.Signal = &name
	} else if r.ExitCode != nil && *r.ExitCode >= 0 && *r.ExitCode <= 255 {
		st.ExitCode = ptr.To(*r.ExitCode)
	}
	if !r.FinishTime.IsZero() || r.Final {
		st.FinishTime = timeOf(between(r.FinishTime, started, f.Now))
	}
	if !r.NextStartTime.IsZero() && !r.Final {
		st.NextStartTime = timeOf(between(r.NextStartTime, started, f.Now.Add(supervise.MaxPause)))
	}
	if old != nil && Same(withoutTimes(old), withoutTimes(st)) {
		return old // a bound that moves must not change the status again and again
	}
	return st
}

// withoutTimes returns the status with all times that it has replaced by the same one.
func withoutTimes(st *v1alpha1.WorkloadStatus) *v1alpha1.WorkloadStatus {
	out := st.DeepCopy()
	for _, t := range []*metav1.Time{out.StartTime, out.FinishTime, out.NextStartTime} {
		if t != nil {
			*t = metav1.Time{}
		}
	}
	return out
}

// LosesOutput reports whether output of the workload was lost since the start of the
// machine, which was not reported yet.
func LosesOutput(f Facts) bool {
	r := counts(f)
	return r != nil && r.LostOutput > 0 && !f.Record.Workload.OutputLost
}

// between returns t, or the bound that it is beyond. The guest's clock may be wrong.
func between(t, earliest, latest time.Time) time.Time {
	if latest.Before(earliest) {
		latest = earliest
	}
	switch {
	case t.Before(earliest):
		return earliest
	case t.After(latest):
		return latest
	}
	return t
}

func timeOf(t time.Time) *metav1.Time { return ptr.To(metav1.NewTime(t).Rfc3339Copy()) }

// Same reports whether two states of a workload are equal.
func Same(a, b *v1alpha1.WorkloadStatus) bool { return equality.Semantic.DeepEqual(a, b) }

// Unsupervised says why a Bottle whose machine has no supervisor never finishes by
// itself; "" if it has no workload. It continues a sentence.
func Unsupervised(rec *state.Record, v host.SmolvmVersion) string {
	switch {
	case v.Version == "":
		return ""
	case !v.Command:
		return fmt.Sprintf("; it never gets the condition Finished by itself, because smolvm %s is older than 1.9 and runs no command", v.Version)
	case !rec.Workload.Checked:
		return "; it never gets the condition Finished by itself, because an earlier release of the operator created it: annotate the Bottle with botbottle.dev/recreatedAt for a new machine (its disk is lost)"
	}
	return ""
}
