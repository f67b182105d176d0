// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/internal/supervise"
)

// Facts hold everything that the decision depends on.
type Facts struct {
	Bottle *v1alpha1.Bottle
	// Record of the machine; nil if there is none.
	Record *state.Record
	// Report in the machine's folder for reports; nil if there is none.
	Report *supervise.Report
	// Leak: a leak keeps the machine stopped.
	Leak bool
	// OpenSessions is the number of sessions that copy files, and LastSession the time
	// at which one was last open.
	OpenSessions int
	LastSession  time.Time
	Now          time.Time
}

// Phase is what a pass is to do about a Bottle whose machine the user wants to run.
type Phase string

// Phases.
const (
	// Running: create and run the machine.
	Running Phase = "running"
	// Ending: stop the machine for good, because of Decision.Record.Workload.Ending.
	Ending Phase = "ending"
	// Finished: keep the machine stopped.
	Finished Phase = "finished"
	// FilesOpen: run the machine without its workload, so that files can be copied.
	FilesOpen Phase = "files open"
	// FilesClosing: nobody copies files any more; stop the machine again.
	FilesClosing Phase = "files closing"
)

// Decision is what to do.
type Decision struct {
	Phase Phase
	// Record is the record to store before that; nil if it need not change.
	Record *state.Record
	// Deadline is when the Bottle must end; zero if it need not.
	Deadline time.Time
}

// How long files stay open.
const (
	// filesIdle is how long files stay open after the last session.
	filesIdle = time.Minute
	// filesStarting is how long the machine may take until files can be copied.
	filesStarting = 15 * time.Minute
)

// Decide returns what to do about the Bottle.
func Decide(f Facts) Decision {
	if f.Record == nil {
		return withoutRecord(f)
	}
	w := f.Record.Workload
	switch {
	case w.Finished != nil && runsAgain(f):
		rec := *f.Record
		rec.Workload = state.Workload{Out: w.Out, Checked: w.Checked, Released: true, FilesAt: f.Bottle.Annotations[v1alpha1.AnnotationFilesAt]}
		return Decision{Phase: Running, Record: &rec}
	case w.Finished != nil:
		return finished(f)
	case f.Leak:
		return Decision{Phase: Running}
	case w.Ending != nil:
		return Decision{Phase: Ending}
	}
	d := Decision{Phase: Running, Deadline: Deadline(f.Bottle, f.Record)}
	end := endOf(f)
	if end == nil && !d.Deadline.IsZero() && !f.Now.Before(d.Deadline) {
		end = &state.End{Reason: v1alpha1.ReasonDeadlineExceeded, Message: fmt.Sprintf(
			"it ran for the %d seconds of spec.lifetime.activeDeadlineSeconds", *f.Bottle.Spec.Lifetime.ActiveDeadlineSeconds)}
	}
	if end != nil {
		return Decision{Phase: Ending, Record: End(f.Record, *end, f.Now)}
	}
	return d
}

// End returns the record of a Bottle that begins to end.
func End(rec *state.Record, end state.End, now time.Time) *state.Record {
	out := *rec
	end.Time = now.UTC()
	out.Workload.Ending = &end
	// From now on, the time when the machine first ran no longer counts: it may run again.
	if out.Workload.Began = Began(rec); out.Workload.Began.IsZero() { // it ended before anybody saw the machine run
		out.Workload.Began = now.UTC().Truncate(time.Second)
	}
	return &out
}

// Finish returns the record of a Bottle that has ended: its machine is down.
func Finish(rec *state.Record, now time.Time) *state.Record {
	out := *rec
	w := &out.Workload
	end := *w.Ending
	end.Time = now.UTC().Truncate(time.Second)
	w.Began = Began(rec)
	w.Finished, w.Ending, w.Stopping, w.Released = &end, nil, true, true
	out.Run = nil
	out.BootFailures, out.BootError, out.BootReason = 0, "", ""
	return &out
}

// withoutRecord decides about a Bottle of which the node has no record. If the API
// server says that it has finished, the state directory was lost, and the Bottle must
// not run a second time.
func withoutRecord(f Facts) Decision {
	c := meta.FindStatusCondition(f.Bottle.Status.Conditions, v1alpha1.ConditionFinished)
	if c == nil || c.Status != metav1.ConditionTrue {
		return Decision{Phase: Running}
	}
	a := f.Bottle.Annotations
	rec := &state.Record{
		Salt: state.NewSalt(), RestartedAt: a[v1alpha1.AnnotationRestartedAt], RecreatedAt: a[v1alpha1.AnnotationRecreatedAt],
		Workload: state.Workload{Stopping: true, Released: true, Began: ptr.Deref(f.Bottle.Status.StartTime, metav1.Time{}).UTC(), FilesAt: a[v1alpha1.AnnotationFilesAt],
			Finished: &state.End{Reason: c.Reason, Message: c.Message, Time: c.LastTransitionTime.UTC()}},
	}
	return Decision{Phase: Finished, Record: rec}
}

// runsAgain reports whether the user asked to run a finished Bottle again.
func runsAgain(f Facts) bool {
	a := f.Bottle.Annotations
	restarted, recreated := a[v1alpha1.AnnotationRestartedAt], a[v1alpha1.AnnotationRecreatedAt]
	return restarted != "" && restarted != f.Record.RestartedAt || recreated != "" && recreated != f.Record.RecreatedAt
}

// finished decides about a Bottle that has finished.
func finished(f Facts) Decision {
	w := f.Record.Workload
	requested, stopped := f.Bottle.Annotations[v1alpha1.AnnotationFilesAt], desired.Stopped(f.Bottle)
	switch {
	case !stopped && requested != "" && requested != w.FilesAt: // perhaps while files are being closed
		rec := *f.Record
		rec.Workload.FilesAt, rec.Workload.FilesSince, rec.Workload.FilesReady = requested, f.Now.UTC(), time.Time{}
		return Decision{Phase: FilesOpen, Record: &rec}
	case w.FilesSince.IsZero():
		return Decision{Phase: Finished}
	case !stopped && (f.OpenSessions > 0 || f.Now.Before(FilesUntil(w, f.LastSession))):
		return Decision{Phase: FilesOpen}
	}
	return Decision{Phase: FilesClosing}
}

// FilesUntil returns when files are closed, unless there is another session.
func FilesUntil(w state.Workload, lastSession time.Time) time.Time {
	if w.FilesReady.IsZero() {
		return w.FilesSince.Add(filesStarting)
	}
	if lastSession.Before(w.FilesReady) {
		lastSession = w.FilesReady
	}
	return lastSession.Add(filesIdle)
}

// CloseFiles returns the record of a finished Bottle whose machine is down again.
func CloseFiles(rec *state.Record) *state.Record {
	out := *rec
	w := &out.Workload
	w.FilesSince, w.FilesReady, w.Stopping = time.Time{}, time.Time{}, true
	out.Run = nil
	return &out
}

// Began returns when the Bottle began to run; zero if it has not. A machine that an
// earlier release created has no time of its own.
func Began(rec *state.Record) time.Time {
	if w := rec.Workload; !w.Began.IsZero() || w.Released {
		return w.Began
	}
	return rec.FirstRun
}

// Deadline returns when the Bottle must end; zero if it need not.
func Deadline(b *v1alpha1.Bottle, rec *state.Record) time.Time {
	l := b.Spec.Lifetime
	if l == nil || l.ActiveDeadlineSeconds == nil || rec == nil {
		return time.Time{}
	}
	began := Began(rec)
	if began.IsZero() {
		return began
	}
	return began.Add(time.Duration(*l.ActiveDeadlineSeconds) * time.Second)
}

// grace is how long a workload may take to end after SIGTERM.
const grace = 30 * time.Second

// Bounds of what a pass waits for before it stops the machine for good.
const (
	// StopTimeout is how long the command StopCommand may take.
	StopTimeout = grace + 15*time.Second
	// sessionsTimeout is how long a Bottle that ends waits for sessions that copy files.
	sessionsTimeout = 30 * time.Second
)

// WaitsForSessions reports whether the machine must not be stopped yet, because files
// are being copied.
func WaitsForSessions(f Facts) bool {
	return f.OpenSessions > 0 && f.Now.Sub(f.Record.Workload.Ending.Time) < sessionsTimeout
}

// NeedsStop reports whether the workload must end before the machine is stopped.
func NeedsStop(f Facts) bool {
	w := f.Record.Workload
	return w.Ending.Reason == v1alpha1.ReasonDeadlineExceeded && w.Out != "" && !w.Idle && !w.Stopping && !Ended(f) && f.Now.Sub(w.Ending.Time) < StopTimeout
}
