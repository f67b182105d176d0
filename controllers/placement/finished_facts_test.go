// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
)

// In this table, a Bottle that has finished, or had finished, is on node-a.
func TestDecideFinished(t *testing.T) {
	placed := func() *builders.Bottle {
		return builders.MakeBottle("a").CPUs(2).On("node-a").Finalizer(v1alpha1.FinalizerNode)
	}
	is := func(b *builders.Bottle, types ...string) *v1alpha1.Bottle {
		for _, t := range types {
			b.Condition(metav1.Condition{Type: t, Status: metav1.ConditionTrue, Reason: "R"})
		}
		return b.Obj()
	}
	released := func(reason string) *builders.Bottle {
		return placed().Condition(metav1.Condition{Type: v1alpha1.ConditionScheduled, Status: metav1.ConditionTrue, Reason: reason})
	}
	done := func() *v1alpha1.Bottle {
		return is(released(v1alpha1.ReasonReleased), v1alpha1.ConditionFinished)
	}
	booked := func() *v1alpha1.Bottle { return is(placed().Booked(4, "1Gi"), v1alpha1.ConditionFinished) }
	again := func() *v1alpha1.Bottle { return released(v1alpha1.ReasonPending).Obj() }
	open := func() *v1alpha1.Bottle {
		return is(released(v1alpha1.ReasonReleased), v1alpha1.ConditionFinished, v1alpha1.ConditionFilesOpen)
	}
	unbound := &podFacts{name: "bottle-a", digest: "d"}
	bound := &podFacts{name: "bottle-a", digest: "d", node: "node-a"}
	full := &podFacts{name: "bottle-a", digest: "d", scheduled: &corev1.PodCondition{Status: corev1.ConditionFalse, Message: "0/1 nodes"}}
	with := func(p *podFacts, change func(*podFacts)) *podFacts {
		c := *p
		change(&c)
		return &c
	}
	drained := with(bound, func(p *podFacts) { p.deleting, p.evicted = true, "deleted" })
	gone := nodeFacts{gone: true, agentLost: true}
	rests := outcome{NodeName: "node-a", Conditions: []string{"Scheduled True Released"}}
	removed := rests
	removed.Pod = podRemove
	runs := outcome{NodeName: "node-a", CPUs: 2, Conditions: []string{"Scheduled True Scheduled"}}
	waits := func(reason string) outcome {
		return outcome{NodeName: "node-a", Conditions: []string{"Scheduled False " + reason}}
	}
	tests := map[string]struct {
		facts facts
		want  outcome
	}{
		"finished: the status first":                      {facts{bottle: booked(), pod: bound}, rests},
		"finished: then the Pod":                          {facts{bottle: done(), pod: bound}, removed},
		"finished: a Pod being deleted":                   {facts{bottle: done(), pod: with(bound, func(p *podFacts) { p.deleting = true })}, removed},
		"finished: an ended Pod":                          {facts{bottle: done(), pod: with(bound, func(p *podFacts) { p.ended = "Failed" })}, removed},
		"finished: no Pod":                                {facts{bottle: done()}, rests},
		"finished: drained in the same moment":            {facts{bottle: booked(), pod: with(bound, func(p *podFacts) { p.deleting = true })}, rests},
		"finished: its node is lost":                      {facts{bottle: done(), home: gone}, rests},
		"finished: its Node object was removed":           {facts{bottle: done(), home: nodeFacts{gone: true}}, rests},
		"finished: its agent is lost":                     {facts{bottle: done(), home: nodeFacts{agentLost: true}}, rests},
		"files are open: its node is lost":                {facts{bottle: open(), home: gone}, rests},
		"files are open: drained":                         {facts{bottle: is(placed().Booked(2, "1Gi"), v1alpha1.ConditionFinished, v1alpha1.ConditionFilesOpen), pod: drained}, rests},
		"files are open: drained, the machine still runs": {facts{bottle: is(released(v1alpha1.ReasonReleased), v1alpha1.ConditionFinished, v1alpha1.ConditionFilesOpen, v1alpha1.ConditionMachineReady), pod: drained}, rests},
		"files are open: drained, the machine is down":    {facts{bottle: open(), pod: drained}, removed},
		"files are open: its Node object was removed":     {facts{bottle: is(placed().Booked(2, "1Gi"), v1alpha1.ConditionFinished, v1alpha1.ConditionFilesOpen), pod: bound, home: nodeFacts{gone: true}}, rests},
		"files are open: no Pod":                          {facts{bottle: open()}, outcome{Pod: podCreate, Pin: "node-a"}},
		"files are open: bound":                           {facts{bottle: open(), pod: bound}, runs},
		"runs again: no Pod":                              {facts{bottle: again()}, outcome{Pod: podCreate, Pin: "node-a"}},
		"runs again: refused":                             {facts{bottle: again(), refusal: "quota"}, waits("PlaceholderRefused")},
		"runs again: the namespace is being deleted":      {facts{bottle: again(), namespaceTerminating: true}, waits("NamespaceTerminating")},
		"runs again: unbound":                             {facts{bottle: again(), pod: unbound}, waits("Pending")},
		"runs again: no room":                             {facts{bottle: again(), pod: full}, waits("Unschedulable")},
		"runs again: bound":                               {facts{bottle: again(), pod: bound}, runs},
		"runs again: bound, of an earlier spec":           {facts{bottle: again(), pod: with(bound, func(p *podFacts) { p.digest = "e" })}, runs},
		"runs again: unbound, of an earlier spec":         {facts{bottle: again(), pod: with(unbound, func(p *podFacts) { p.digest = "e" })}, outcome{Pod: podRemove}},
		"runs again: bound elsewhere":                     {facts{bottle: again(), pod: with(bound, func(p *podFacts) { p.node = "node-b" })}, outcome{Pod: podRemove}},
		"runs again: its Pod is deleted":                  {facts{bottle: again(), pod: with(bound, func(p *podFacts) { p.deleting = true })}, outcome{Pod: podRemove}},
		"runs again: bound, but flawed":                   {facts{bottle: again(), pod: with(bound, func(p *podFacts) { p.flaw = "f" })}, outcome{Pod: podRemove}},
		"runs again: flawed again":                        {facts{bottle: again(), pod: with(bound, func(p *podFacts) { p.flaw, p.wait = "f", time.Minute })}, waits("PlaceholderMismatch")},
		"runs again: ended": {facts{bottle: again(), pod: with(bound, func(p *podFacts) { p.ended = "Failed" })},
			outcome{Pod: podCreate, Pin: "node-a", NodeName: "node-a", Conditions: []string{"Scheduled False PlaceholderEnded"}}},
		"runs again: ended again":                                {facts{bottle: again(), pod: with(bound, func(p *podFacts) { p.ended, p.wait = "Failed", time.Minute })}, waits("PlaceholderEnded")},
		"runs, and somebody removed its booking from the status": {facts{bottle: released(v1alpha1.ReasonScheduled).Obj(), pod: bound}, runs},
		"runs again: its node is lost": {facts{bottle: again(), home: gone},
			outcome{Clear: true, CPUs: 2, Conditions: []string{"Scheduled False NodeLost", "Ready False NodeLost"}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.facts.desired = desiredPod{resources: v1alpha1.ResourcesStatus{CPUs: 2}, digest: "d"}
			if diff := cmp.Diff(tt.want, outcomeOf(decide(tt.facts))); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestExpiry(t *testing.T) {
	now := time.Unix(1000, 0)
	finished := func(ttl *int32, ago time.Duration) *builders.Bottle {
		b := builders.MakeBottle("a").Condition(metav1.Condition{Type: v1alpha1.ConditionFinished, Status: metav1.ConditionTrue,
			LastTransitionTime: metav1.NewTime(now.Add(-ago))})
		b.Spec.Lifetime = &v1alpha1.Lifetime{TTLSecondsAfterFinished: ttl}
		return b
	}
	tests := map[string]struct {
		bottle *builders.Bottle
		left   time.Duration
		has    bool
	}{
		"no lifetime":         {builders.MakeBottle("a"), 0, false},
		"no time":             {finished(nil, time.Hour), 0, false},
		"later":               {finished(ptr.To(int32(60)), 20*time.Second), 40 * time.Second, true},
		"now":                 {finished(ptr.To(int32(60)), time.Minute), 0, true},
		"long ago":            {finished(ptr.To(int32(60)), time.Hour), 0, true},
		"at once":             {finished(ptr.To(int32(0)), 0), 0, true},
		"the longest":         {finished(ptr.To(int32(2147483647)), 0), 2147483647 * time.Second, true},
		"its files are open":  {finished(ptr.To(int32(0)), time.Hour).Condition(metav1.Condition{Type: v1alpha1.ConditionFilesOpen, Status: metav1.ConditionTrue}), 0, false},
		"it is being deleted": {finished(ptr.To(int32(0)), time.Hour).Deleted(now), 0, false},
		"it has not finished": {func() *builders.Bottle { b := finished(ptr.To(int32(0)), 0); b.Status.Conditions = nil; return b }(), 0, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			left, has := expiry(tt.bottle.Obj(), now)
			if left != tt.left || has != tt.has {
				t.Errorf("got %s, %t, want %s, %t", left, has, tt.left, tt.has)
			}
		})
	}
}
