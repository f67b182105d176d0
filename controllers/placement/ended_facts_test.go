// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/internal/placeholder"
	"botbottle.dev/bottle-operator/test/builders"
)

// TestHowAPodEnded checks what is concluded from a Pod that ended, was deleted, or both.
func TestHowAPodEnded(t *testing.T) {
	deletedAt := metav1.Unix(1000, 0)
	disrupted := func(reason string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason}}
		}
	}
	deleted := func(p *corev1.Pod) { p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &deletedAt, ptr.To(int64(0)) }
	grace := func(p *corev1.Pod) { p.DeletionGracePeriodSeconds = ptr.To(int64(30)) }
	phase := func(phase corev1.PodPhase, reason string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Status.Phase, p.Status.Reason = phase, reason }
	}
	finished := func(second int64) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: metav1.Unix(second, 0)}}}}
		}
	}
	const (
		drained   = "evicted through the API"
		preempted = "preempted by kube-scheduler"
		tainted   = "NoExecute taint"
	)
	tests := map[string]struct {
		changes []func(*corev1.Pod)
		ended   string
		evicted string // in the answer; "" means not evicted
	}{
		"pending":            {nil, "", ""},
		"running":            {[]func(*corev1.Pod){phase("Running", "")}, "", ""},
		"unknown":            {[]func(*corev1.Pod){phase("Unknown", "NodeLost")}, "", ""},
		"under pressure":     {[]func(*corev1.Pod){phase("Failed", "Evicted"), disrupted("TerminationByKubelet")}, "Failed, Evicted", ""},
		"out of a resource":  {[]func(*corev1.Pod){phase("Failed", "OutOfbotbottle.dev/bottle")}, "Failed, OutOfbotbottle.dev/bottle", ""},
		"rejected":           {[]func(*corev1.Pod){phase("Failed", "UnexpectedAdmissionError")}, "Failed, UnexpectedAdmissionError", ""},
		"shut down":          {[]func(*corev1.Pod){phase("Failed", "Terminated")}, "Failed, Terminated", ""},
		"succeeded":          {[]func(*corev1.Pod){phase("Succeeded", "")}, "Succeeded", ""},
		"a forged reason":    {[]func(*corev1.Pod){phase("Failed", "call \x1b[31m555-0100")}, "Failed", ""},
		"a long reason":      {[]func(*corev1.Pod){phase("Failed", strings.Repeat("x", 64))}, "Failed", ""},
		"deleted":            {[]func(*corev1.Pod){phase("Running", ""), deleted}, "", "deleted"},
		"drained":            {[]func(*corev1.Pod){phase("Running", ""), deleted, disrupted("EvictionByEvictionAPI")}, "", drained},
		"preempted":          {[]func(*corev1.Pod){phase("Running", ""), deleted, disrupted("PreemptionByScheduler")}, "", preempted},
		"tainted":            {[]func(*corev1.Pod){phase("Running", ""), deleted, disrupted("DeletionByTaintManager")}, "", tainted},
		"not yet deleted":    {[]func(*corev1.Pod){phase("Running", ""), disrupted("EvictionByEvictionAPI")}, "", ""},
		"drained, then dead": {[]func(*corev1.Pod){phase("Failed", ""), deleted, disrupted("EvictionByEvictionAPI"), finished(1001)}, "Failed", drained},
		"preempted, dead":    {[]func(*corev1.Pod){phase("Succeeded", ""), deleted, disrupted("PreemptionByScheduler")}, "Succeeded", preempted},
		"deleted, then dead": {[]func(*corev1.Pod){phase("Failed", ""), deleted, finished(1000)}, "Failed", "deleted"},
		"deleted with grace": {[]func(*corev1.Pod){phase("Failed", ""), deleted, grace, finished(975)}, "Failed", "deleted"},

		"dead, then deleted":               {[]func(*corev1.Pod){phase("Failed", ""), deleted, finished(999)}, "Failed", ""},
		"dead without a time":              {[]func(*corev1.Pod){phase("Failed", ""), deleted}, "Failed", ""},
		"pressure, then deleted":           {[]func(*corev1.Pod){phase("Failed", "Evicted"), deleted, disrupted("TerminationByKubelet"), finished(1001)}, "Failed, Evicted", ""},
		"pressure, then the descheduler":   {[]func(*corev1.Pod){phase("Failed", "Evicted"), deleted, disrupted("EvictionByEvictionAPI")}, "Failed, Evicted", ""},
		"a condition that no longer holds": {[]func(*corev1.Pod){phase("Failed", ""), deleted, disrupted("EvictionByEvictionAPI"), func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }}, "Failed", ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{}
			for _, change := range tc.changes {
				change(pod)
			}
			slim, err := slimPod(pod) // what the cache keeps must be enough
			if err != nil {
				t.Fatal(err)
			}
			got := observePod(slim.(*corev1.Pod))
			if got.ended != tc.ended || (got.evicted == "") != (tc.evicted == "") || !strings.Contains(got.evicted, tc.evicted) {
				t.Errorf("got ended %q and evicted %q, want %q and %q", got.ended, got.evicted, tc.ended, tc.evicted)
			}
		})
	}
}

// TestPauses checks that pauses double up to the longest, whoever computes them and however
// late, and start over after a placeholder that lasted.
func TestPauses(t *testing.T) {
	o := Options{FirstPause: 10 * time.Second, LongestPause: 5 * time.Minute}
	tests := map[string]struct {
		failures int
		age      time.Duration
		pause    time.Duration
		next     int
	}{
		"the first":              {0, 0, 0, 1},
		"the second":             {1, 0, 10 * time.Second, 2},
		"the second, later":      {1, 4 * time.Second, 6 * time.Second, 2},
		"the second, much later": {1, time.Minute, 0, 2},
		"the fourth":             {3, 0, 40 * time.Second, 4},
		"the tenth":              {9, 0, 5 * time.Minute, 10},
		"the tenth, due":         {9, 5 * time.Minute, 0, 10},
		"the tenth, lasted":      {9, 10 * time.Minute, 0, 1},
		"the most":               {mostFailures, 0, 5 * time.Minute, mostFailures + 1},
		"from the future":        {1, -time.Hour, 10 * time.Second, 2},
	}
	for name, tc := range tests {
		if pause, next := pauseAfter(tc.failures, tc.age, o); pause != tc.pause || next != tc.next {
			t.Errorf("%s: got %v and %d, want %v and %d", name, pause, next, tc.pause, tc.next)
		}
	}
	for text, want := range map[string]int{"": 0, "3": 3, "-1": 0, "x": 0, "99999999999999999999": 0, "5000": mostFailures} {
		pod := &corev1.Pod{}
		pod.Annotations = map[string]string{annotationFailures: text}
		if got := failuresBefore(pod); got != want {
			t.Errorf("annotation %q: got %d, want %d", text, got, want)
		}
	}
}

// TestWhichPlaceholderCounts checks which of two placeholders of a Bottle is its own and
// which is a former one, in either order of the list.
func TestWhichPlaceholderCounts(t *testing.T) {
	b := builders.MakeBottle("a").Obj()
	o := DefaultOptions()
	make := func(name string, change func(*corev1.Pod)) corev1.Pod {
		pod, err := placeholder.Render(b, placeholder.Resources(b, o.Options), "node-a", o.Options)
		if err != nil {
			t.Fatal(err)
		}
		pod.Name = name
		change(pod)
		return *pod
	}
	fail := func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }
	first, second := placeholder.Name(b), placeholder.SuccessorName(b, placeholder.Name(b))
	if back := placeholder.SuccessorName(b, second); back != first || len(second) > 63 {
		t.Errorf("got names %q, %q, %q, want two that take turns", first, second, back)
	}
	at := func(second int64) metav1.Time { return metav1.Unix(second, 0) }
	tests := map[string]struct {
		former, own func(*corev1.Pod)
	}{
		"one ended":        {fail, func(*corev1.Pod) {}},
		"one ended, later": {func(p *corev1.Pod) { fail(p); p.CreationTimestamp = at(9) }, func(*corev1.Pod) {}},
		"both ended":       {fail, func(p *corev1.Pod) { fail(p); p.Annotations[annotationFailures] = "1" }},
		"both ended, the count is lost": {func(p *corev1.Pod) { fail(p); p.CreationTimestamp = at(1) },
			func(p *corev1.Pod) { fail(p); p.CreationTimestamp = at(2) }},
		"both ended, the former one lasted": {func(p *corev1.Pod) { fail(p); p.CreationTimestamp, p.Annotations[annotationFailures] = at(1), "5" },
			func(p *corev1.Pod) { fail(p); p.CreationTimestamp, p.Annotations[annotationFailures] = at(2), "1" }},
		"neither ended":                     {func(p *corev1.Pod) { p.CreationTimestamp = at(2) }, func(p *corev1.Pod) { p.CreationTimestamp = at(1) }},
		"neither ended, of the same second": {func(*corev1.Pod) {}, func(*corev1.Pod) {}},
		"neither ended, one is being replaced": {func(p *corev1.Pod) {
			p.CreationTimestamp, p.DeletionTimestamp = at(1), &metav1.Time{Time: at(3).Time}
			p.Annotations[annotationReplaced], p.Finalizers = "true", nil
		}, func(p *corev1.Pod) { p.CreationTimestamp = at(2) }},
		"neither ended, one is deleted": {func(p *corev1.Pod) { p.CreationTimestamp = at(1) },
			func(p *corev1.Pod) { p.CreationTimestamp, p.DeletionTimestamp = at(2), &metav1.Time{Time: at(3).Time} }},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			former, own := make(first, tc.former), make(second, tc.own)
			for _, list := range [][]corev1.Pod{{former, own}, {own, former}} {
				got, rest, strays := classifyPods(b, list)
				if got == nil || got.Name != second || len(rest) != 1 || rest[0].Name != first || len(strays) > 0 {
					t.Errorf("got %v, former %d, strays %d, want %s and one former", got, len(rest), len(strays), second)
				}
			}
		})
	}
}
