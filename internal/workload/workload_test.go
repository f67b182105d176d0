// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/internal/supervise"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// facts are about a Bottle that has run for a minute and whose command has just ended
// with exit code 0.
func facts(policy v1alpha1.RestartPolicy) Facts {
	b := &v1alpha1.Bottle{}
	b.Spec.RestartPolicy = policy
	return Facts{
		Bottle: b, Now: epoch.Add(time.Minute),
		Record: &state.Record{FirstRun: epoch, Workload: state.Workload{Out: "/out", Start: "s", Began: epoch}},
		Report: &supervise.Report{Start: "s", StartTime: epoch, FinishTime: epoch.Add(time.Minute), ExitCode: ptr.To[int32](0), Final: true},
	}
}

func TestDecide(t *testing.T) {
	annotated := func(f *Facts, name string) { f.Bottle.Annotations = map[string]string{name: "x"} }
	deadline := func(f *Facts) { f.Bottle.Spec.Lifetime = &v1alpha1.Lifetime{ActiveDeadlineSeconds: ptr.To[int64](60)} }
	finish := func(f *Facts) {
		f.Record.Workload.Finished = &state.End{Reason: v1alpha1.ReasonFailed, Message: "m", Time: epoch}
	}
	tests := map[string]struct {
		policy v1alpha1.RestartPolicy
		change func(*Facts)
		phase  Phase
		reason string // of the end that begins, or of the record of a finished Bottle
	}{
		"completed":               {v1alpha1.RestartNever, func(*Facts) {}, Ending, v1alpha1.ReasonCompleted},
		"completed, OnFailure":    {v1alpha1.RestartOnFailure, func(*Facts) {}, Ending, v1alpha1.ReasonCompleted},
		"Always":                  {v1alpha1.RestartAlways, func(*Facts) {}, Running, ""},
		"failed":                  {v1alpha1.RestartNever, func(f *Facts) { f.Report.ExitCode = ptr.To[int32](1) }, Ending, v1alpha1.ReasonFailed},
		"failed, OnFailure":       {v1alpha1.RestartOnFailure, func(f *Facts) { f.Report.ExitCode = ptr.To[int32](1) }, Running, ""},
		"code 0 and a signal":     {v1alpha1.RestartNever, func(f *Facts) { f.Report.Signal = 9 }, Ending, v1alpha1.ReasonFailed},
		"neither":                 {v1alpha1.RestartNever, func(f *Facts) { f.Report.ExitCode = nil }, Ending, v1alpha1.ReasonFailed},
		"a pause":                 {v1alpha1.RestartNever, func(f *Facts) { f.Report.Final = false }, Running, ""},
		"another start":           {v1alpha1.RestartNever, func(f *Facts) { f.Report.Start = "t" }, Running, ""},
		"no start":                {v1alpha1.RestartNever, func(f *Facts) { f.Report.Start, f.Record.Workload.Start = "", "" }, Running, ""},
		"no report":               {v1alpha1.RestartNever, func(f *Facts) { f.Report = nil }, Running, ""},
		"stopping":                {v1alpha1.RestartNever, func(f *Facts) { f.Record.Workload.Stopping = true }, Running, ""},
		"idle":                    {v1alpha1.RestartNever, func(f *Facts) { f.Record.Workload.Idle = true }, Running, ""},
		"a leak":                  {v1alpha1.RestartNever, func(f *Facts) { f.Leak = true }, Running, ""},
		"no record":               {v1alpha1.RestartNever, func(f *Facts) { f.Record = nil }, Running, ""},
		"the deadline":            {v1alpha1.RestartAlways, deadline, Ending, v1alpha1.ReasonDeadlineExceeded},
		"both":                    {v1alpha1.RestartNever, deadline, Ending, v1alpha1.ReasonCompleted},
		"before the deadline":     {v1alpha1.RestartAlways, func(f *Facts) { deadline(f); f.Now = f.Now.Add(-1) }, Running, ""},
		"deadline, never ran":     {v1alpha1.RestartAlways, func(f *Facts) { deadline(f); f.Record.FirstRun, f.Record.Workload.Began = time.Time{}, time.Time{} }, Running, ""},
		"deadline, older release": {v1alpha1.RestartAlways, func(f *Facts) { deadline(f); f.Record.Workload = state.Workload{} }, Ending, v1alpha1.ReasonDeadlineExceeded},
		"ending":                  {v1alpha1.RestartAlways, func(f *Facts) { f.Record.Workload.Ending = &state.End{} }, Ending, ""},
		"finished":                {v1alpha1.RestartNever, finish, Finished, v1alpha1.ReasonFailed},
		"finished, a leak":        {v1alpha1.RestartNever, func(f *Facts) { finish(f); f.Leak = true }, Finished, v1alpha1.ReasonFailed},
		"restarted":               {v1alpha1.RestartNever, func(f *Facts) { finish(f); annotated(f, v1alpha1.AnnotationRestartedAt) }, Running, ""},
		"recreated":               {v1alpha1.RestartNever, func(f *Facts) { finish(f); annotated(f, v1alpha1.AnnotationRecreatedAt) }, Running, ""},
		"restarted before": {v1alpha1.RestartNever, func(f *Facts) {
			finish(f)
			annotated(f, v1alpha1.AnnotationRestartedAt)
			f.Record.RestartedAt = "x"
		}, Finished, v1alpha1.ReasonFailed},
		"files": {v1alpha1.RestartNever, func(f *Facts) { finish(f); annotated(f, v1alpha1.AnnotationFilesAt) }, FilesOpen, v1alpha1.ReasonFailed},
		"files before": {v1alpha1.RestartNever, func(f *Facts) {
			finish(f)
			annotated(f, v1alpha1.AnnotationFilesAt)
			f.Record.Workload.FilesAt = "x"
		}, Finished, v1alpha1.ReasonFailed},
		"files of one that runs": {v1alpha1.RestartAlways, func(f *Facts) { annotated(f, v1alpha1.AnnotationFilesAt) }, Running, ""},
		"files idle": {v1alpha1.RestartNever, func(f *Facts) {
			finish(f)
			f.Record.Workload.FilesSince, f.Record.Workload.FilesReady = epoch, epoch
		}, FilesClosing, v1alpha1.ReasonFailed},
		"files in use": {v1alpha1.RestartNever, func(f *Facts) {
			finish(f)
			f.Record.Workload.FilesSince, f.Record.Workload.FilesReady, f.OpenSessions = epoch, epoch, 1
		}, FilesOpen, v1alpha1.ReasonFailed},
		"files that never come": {v1alpha1.RestartNever, func(f *Facts) {
			finish(f)
			f.Record.Workload.FilesSince, f.Now = epoch, epoch.Add(time.Hour)
		}, FilesClosing, v1alpha1.ReasonFailed},
		"record lost": {v1alpha1.RestartNever, func(f *Facts) {
			f.Record = nil
			f.Bottle.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionFinished, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonCompleted}}
		}, Finished, v1alpha1.ReasonCompleted},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := facts(tt.policy)
			tt.change(&f)
			d := Decide(f)
			if d.Phase != tt.phase {
				t.Errorf("phase: got %s, want %s", d.Phase, tt.phase)
			}
			rec := f.Record
			if d.Record != nil {
				rec = d.Record
			}
			got := ""
			if rec != nil && rec.Workload.Finished != nil {
				got = rec.Workload.Finished.Reason
			} else if rec != nil && rec.Workload.Ending != nil {
				got = rec.Workload.Ending.Reason
			}
			if got != tt.reason {
				t.Errorf("reason: got %q, want %q", got, tt.reason)
			}
		})
	}
}

// Whatever a guest reports, the status is one that the API server accepts, and it does
// not change while the report does not.
func TestStatusOfAnyReport(t *testing.T) {
	far := time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	tests := map[string]func(*supervise.Report){
		"in the future":  func(r *supervise.Report) { r.StartTime, r.FinishTime = far, far },
		"in the past":    func(r *supervise.Report) { r.StartTime, r.FinishTime = time.Unix(1, 0), time.Unix(0, 1) },
		"no times":       func(r *supervise.Report) { r.StartTime, r.FinishTime = time.Time{}, time.Time{} },
		"large code":     func(r *supervise.Report) { r.ExitCode = ptr.To[int32](math.MaxInt32) },
		"negative code":  func(r *supervise.Report) { r.ExitCode = ptr.To[int32](-1) },
		"no such signal": func(r *supervise.Report) { r.Signal = math.MaxInt },
		"restarts":       func(r *supervise.Report) { r.Restarts = math.MinInt32 },
		"an eternal pause": func(r *supervise.Report) {
			r.Final, r.NextStartTime = false, far
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			f := facts(v1alpha1.RestartNever)
			change(f.Report)
			st := Status(f, nil)
			if st == nil || st.StartTime.Before(ptr.To(metav1.NewTime(epoch))) || st.StartTime.After(f.Now) {
				t.Fatalf("startTime: got %+v, want it since the Bottle began", st)
			}
			if st.FinishTime != nil && (st.FinishTime.Before(st.StartTime) || st.FinishTime.After(f.Now)) {
				t.Errorf("finishTime: got %v, want it between %v and now", st.FinishTime, st.StartTime)
			}
			if st.NextStartTime != nil && st.NextStartTime.After(f.Now.Add(supervise.MaxPause)) {
				t.Errorf("nextStartTime: got %v, want it within the longest pause", st.NextStartTime)
			}
			if c := st.ExitCode; c != nil && (*c < 0 || *c > 255) || *st.Restarts < 0 || st.Signal != nil && *st.Signal == "" {
				t.Errorf("got %+v, want values within the API's bounds", st)
			}
			f.Now = f.Now.Add(time.Hour)
			if d := cmp.Diff(st, Status(f, st)); d != "" {
				t.Errorf("an hour later (-before +after):\n%s", d)
			}
		})
	}
}

func TestHow(t *testing.T) {
	for want, r := range map[string]supervise.Report{
		"exit code 3":            {ExitCode: ptr.To[int32](3)},
		"does not exist":         {ExitCode: ptr.To[int32](127)},
		"cannot be run":          {ExitCode: ptr.To[int32](126)},
		"SIGKILL":                {Signal: 9},
		"SIGRT2":                 {Signal: 34},
		"does not say how":       {},
		"the guest does not say": {ExitCode: ptr.To[int32](256)},
	} {
		if got := how(&r); !strings.Contains(got, want) {
			t.Errorf("%+v: got %q, want %q in it", r, got, want)
		}
	}
}

func TestRestartsAreCountedAcrossStarts(t *testing.T) {
	f := facts(v1alpha1.RestartAlways)
	f.Report.Restarts, f.Record.Workload.Restarts = 5, 2
	if got := Start(f, "t", Running); got.Restarts != 6 || got.Start != "t" || got.Idle {
		t.Errorf("got %+v, want 6 restarts before start t", got)
	}
	f.Report.Restarts = math.MaxInt32
	if got := Start(f, "t", Running).Restarts; got < 0 {
		t.Errorf("got %d, want no overflow", got)
	}
	f.Report, f.Record.Workload = nil, state.Workload{Out: "/out"}
	if got := Start(f, "t", Running).Restarts; got != 0 {
		t.Errorf("first start: got %d, want 0", got)
	}
}

// status.startTime stays when the Bottle has finished.
func TestBeganStays(t *testing.T) {
	first, now := time.Unix(1000, 0).UTC(), time.Unix(2000, 0).UTC()
	for name, tt := range map[string]struct {
		rec  state.Record
		want time.Time
	}{
		"seen to run":         {state.Record{FirstRun: first}, first},
		"not seen to run":     {state.Record{}, now},
		"runs a second time":  {state.Record{FirstRun: time.Unix(1, 0), Workload: state.Workload{Released: true, Began: first}}, first},
		"again, not seen yet": {state.Record{FirstRun: time.Unix(1, 0), Workload: state.Workload{Released: true}}, now},
	} {
		t.Run(name, func(t *testing.T) {
			rec := Finish(End(&tt.rec, state.End{Reason: "Completed"}, now), now)
			if got := Began(rec); !got.Equal(tt.want) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}
