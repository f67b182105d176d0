// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
)

// outcome is a decision in a form that is easy to compare.
type outcome struct {
	Pod           podAction
	Pin           string
	Clear         bool
	DropFinalizer bool
	NodeName      string
	CPUs          int32
	// Conditions as "Type Status Reason".
	Conditions []string
	After      time.Duration
}

func outcomeOf(d decision) outcome {
	o := outcome{Pod: d.pod, Pin: d.pin, Clear: d.clear, DropFinalizer: d.dropFinalizer, After: d.after}
	if d.status == nil {
		return o
	}
	o.NodeName = d.status.nodeName
	if r := d.status.resources; r != nil {
		o.CPUs = r.CPUs
	}
	for _, c := range d.status.asserted {
		o.Conditions = append(o.Conditions, c.Type+" "+string(c.Status)+" "+c.Reason)
	}
	return o
}

// In this table the spec requests 2 CPUs, and 4 were booked on the node.
func TestDecide(t *testing.T) {
	bottle := func() *builders.Bottle { return builders.MakeBottle("a").CPUs(2) }
	placed := func() *builders.Bottle {
		return bottle().On("node-a").Booked(4, "1Gi").Finalizer(v1alpha1.FinalizerNode)
	}
	reported := func(status metav1.ConditionStatus, reason string) *builders.Bottle {
		return placed().Condition(metav1.Condition{Type: v1alpha1.ConditionScheduled, Status: status, Reason: reason})
	}
	withMachine := func() *v1alpha1.Bottle {
		b := placed().Obj()
		b.Status.Machine = &v1alpha1.MachineStatus{Name: "bottle-a"}
		return b
	}
	now := time.Unix(0, 0)
	unbound := &podFacts{name: "bottle-a", digest: "d"}
	boundTo := func(node string) *podFacts { return &podFacts{name: "bottle-a", digest: "d", node: node} }
	leaving := func(node string) *podFacts {
		return &podFacts{name: "bottle-a", digest: "d", node: node, deleting: true}
	}
	unschedulable := &corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/2 nodes"}
	lost := nodeFacts{gone: true, agentLost: true}
	stays := outcome{NodeName: "node-a", CPUs: 4, Conditions: []string{"Scheduled True Scheduled"}}
	ended := []string{"Scheduled True PlaceholderEnded"}
	endedUnplaced := []string{"Scheduled False PlaceholderEnded", "Ready False PlaceholderEnded"}
	agentLost := []string{"Ready Unknown AgentLost", "EgressEnforced Unknown AgentLost"}
	tests := map[string]struct {
		facts facts
		want  outcome
	}{
		// Without a node.
		"new": {facts{bottle: bottle().Obj()}, outcome{Pod: podCreate}},
		"refused": {facts{bottle: bottle().Obj(), refusal: "quota"},
			outcome{CPUs: 2, Conditions: []string{"Scheduled False PlaceholderRefused", "Ready False PlaceholderRefused"}}},
		"in a namespace being deleted": {facts{bottle: bottle().Obj(), namespaceTerminating: true},
			outcome{CPUs: 2, Conditions: []string{"Scheduled False NamespaceTerminating", "Ready False NamespaceTerminating"}}},
		"just created": {facts{bottle: bottle().Obj(), pod: &podFacts{digest: "d", reportIn: 1}}, outcome{After: 1}},
		"just created again": {facts{bottle: bottle().Condition(metav1.Condition{Type: v1alpha1.ConditionScheduled, Status: "False", Reason: "Evicted"}).Obj(), pod: &podFacts{digest: "d", reportIn: 1}},
			outcome{CPUs: 2, Conditions: []string{"Scheduled False Pending", "Ready False Pending"}}},
		"waiting": {facts{bottle: bottle().Obj(), pod: unbound},
			outcome{CPUs: 2, Conditions: []string{"Scheduled False Pending", "Ready False Pending"}}},
		"unschedulable": {facts{bottle: bottle().Obj(), pod: &podFacts{digest: "d", scheduled: unschedulable}},
			outcome{CPUs: 2, Conditions: []string{"Scheduled False Unschedulable", "Ready False Unschedulable"}}},
		"scheduler without a message": {facts{bottle: bottle().Obj(), pod: &podFacts{digest: "d", scheduled: &corev1.PodCondition{Status: corev1.ConditionFalse}}},
			outcome{CPUs: 2, Conditions: []string{"Scheduled False Pending", "Ready False Pending"}}},
		"spec changed while waiting":       {facts{bottle: bottle().Obj(), pod: &podFacts{digest: "old"}}, outcome{Pod: podRemove}},
		"spec changed while being bound":   {facts{bottle: bottle().Obj(), pod: &podFacts{digest: "old", node: "node-a"}}, outcome{Pod: podRemove}},
		"deleted while waiting":            {facts{bottle: bottle().Obj(), pod: leaving("")}, outcome{Pod: podRemove}},
		"torn down after a drain":          {facts{bottle: bottle().Finalizer(v1alpha1.FinalizerNode).Obj(), pod: leaving("node-a")}, outcome{Pod: podRemove}},
		"bound":                            {facts{bottle: bottle().Obj(), pod: boundTo("node-a")}, outcome{NodeName: "node-a", CPUs: 2, Conditions: []string{"Scheduled True Scheduled", "Ready False Progressing"}}},
		"bound to a node without an agent": {facts{bottle: bottle().Obj(), pod: boundTo("node-a"), bound: nodeFacts{agentLost: true}}, outcome{NodeName: "node-a", CPUs: 2, Conditions: []string{"Scheduled True Scheduled", "Ready False Progressing"}}},
		"bound to a node that is gone":     {facts{bottle: bottle().Obj(), pod: boundTo("node-a"), bound: nodeFacts{gone: true}}, outcome{Pod: podRemove}},
		"bound to a node out of service":   {facts{bottle: bottle().Obj(), pod: boundTo("node-a"), bound: nodeFacts{outOfService: true}}, outcome{Pod: podRemove}},
		"stopped": {facts{bottle: bottle().Stopped().Obj()},
			outcome{CPUs: 2, Conditions: []string{"Scheduled False Stopped", "Ready True Stopped"}}},
		"stopped while waiting": {facts{bottle: bottle().Stopped().Obj(), pod: unbound},
			outcome{Pod: podRemove, CPUs: 2, Conditions: []string{"Scheduled False Stopped", "Ready True Stopped"}}},
		"stopped while being bound": {facts{bottle: bottle().Stopped().Obj(), pod: boundTo("node-a")},
			outcome{Pod: podRemove, CPUs: 2, Conditions: []string{"Scheduled False Stopped", "Ready True Stopped"}}},

		"flawed":                     {facts{bottle: bottle().Obj(), pod: &podFacts{digest: "d", flaw: "f"}}, outcome{Pod: podRemove}},
		"flawed and bound":           {facts{bottle: bottle().Obj(), pod: &podFacts{digest: "d", node: "node-a", flaw: "f"}}, outcome{Pod: podRemove}},
		"flawed again":               {facts{bottle: bottle().Obj(), pod: &podFacts{digest: "d", node: "node-a", flaw: "f", wait: 1}}, outcome{CPUs: 2, Conditions: []string{"Scheduled False PlaceholderMismatch", "Ready False PlaceholderMismatch"}}},
		"without its finalizer":      {facts{bottle: bottle().Obj(), pod: &podFacts{digest: "d", unheld: true}}, outcome{Pod: podHold, CPUs: 2, Conditions: []string{"Scheduled False Pending", "Ready False Pending"}}},
		"flawed, without finalizer":  {facts{bottle: bottle().Obj(), pod: &podFacts{digest: "d", flaw: "f", wait: 1, unheld: true}}, outcome{CPUs: 2, Conditions: []string{"Scheduled False PlaceholderMismatch", "Ready False PlaceholderMismatch"}}},
		"deleted, without finalizer": {facts{bottle: bottle().Obj(), pod: &podFacts{digest: "d", deleting: true, unheld: true}}, outcome{Pod: podRemove}},

		"ended":                  {facts{bottle: bottle().Obj(), pod: &podFacts{digest: "d", ended: "Failed"}}, outcome{Pod: podCreate, CPUs: 2, Conditions: endedUnplaced}},
		"ended, with a node":     {facts{bottle: bottle().Obj(), pod: &podFacts{digest: "d", node: "node-a", ended: "Failed"}}, outcome{Pod: podCreate, CPUs: 2, Conditions: endedUnplaced}},
		"ended again":            {facts{bottle: bottle().Obj(), pod: &podFacts{digest: "d", ended: "Failed", wait: 1}}, outcome{CPUs: 2, Conditions: endedUnplaced}},
		"ended, another refused": {facts{bottle: bottle().Obj(), pod: &podFacts{digest: "d", ended: "Failed"}, refusal: "quota"}, outcome{CPUs: 2, Conditions: endedUnplaced}},
		"ended and deleted":      {facts{bottle: bottle().Obj(), pod: &podFacts{digest: "d", ended: "Failed", deleting: true, wait: 1}}, outcome{CPUs: 2, Conditions: endedUnplaced}},
		"ended, because evicted": {facts{bottle: bottle().Obj(), pod: &podFacts{digest: "d", ended: "Failed", deleting: true, evicted: "evicted"}}, outcome{Pod: podRemove}},
		"ended, spec changed":    {facts{bottle: bottle().Obj(), pod: &podFacts{digest: "old", ended: "Failed", wait: 1}}, outcome{Pod: podRemove}},
		"ended, stopped":         {facts{bottle: bottle().Stopped().Obj(), pod: &podFacts{digest: "d", ended: "Failed", wait: 1}}, outcome{Pod: podRemove, CPUs: 2, Conditions: []string{"Scheduled False Stopped", "Ready True Stopped"}}},

		// On a node.
		"its Pod books less":                 {facts{bottle: placed().Obj(), pod: &podFacts{digest: "d", node: "node-a", unbooked: "u"}}, outcome{Pod: podReplace, NodeName: "node-a", CPUs: 4, Conditions: stays.Conditions}},
		"its Pod books less again":           {facts{bottle: placed().Obj(), pod: &podFacts{digest: "d", node: "node-a", unbooked: "u", wait: 1}}, stays},
		"its Pod books less and drained":     {facts{bottle: placed().Obj(), pod: &podFacts{digest: "d", node: "node-a", unbooked: "u", deleting: true}}, outcome{NodeName: "node-a", CPUs: 4, Conditions: []string{"Scheduled False Evicted"}}},
		"its Pod being replaced":             {facts{bottle: placed().Obj(), pod: &podFacts{digest: "d", node: "node-a", unbooked: "u", unheld: true, deleting: true}}, stays},
		"its Pod books less, on no node":     {facts{bottle: placed().Obj(), pod: &podFacts{digest: "d", unbooked: "u"}}, outcome{Pod: podReplace, NodeName: "node-a", CPUs: 4, Conditions: stays.Conditions}},
		"its Pod has another container":      {facts{bottle: placed().Obj(), pod: &podFacts{digest: "d", node: "node-a", flaw: "f"}}, stays},
		"its Pod without finalizer":          {facts{bottle: placed().Obj(), pod: &podFacts{digest: "d", node: "node-a", unheld: true}}, outcome{Pod: podHold, NodeName: "node-a", CPUs: 4, Conditions: stays.Conditions}},
		"drained after losing its finalizer": {facts{bottle: placed().Obj(), pod: &podFacts{digest: "d", node: "node-a", unheld: true, deleting: true}}, outcome{NodeName: "node-a", CPUs: 4, Conditions: []string{"Scheduled False Evicted"}}},
		"on its node":                        {facts{bottle: placed().Obj(), pod: boundTo("node-a")}, stays},
		"its new Pod not bound":              {facts{bottle: placed().Obj(), pod: unbound}, stays},
		"spec changed on it":                 {facts{bottle: placed().Obj(), pod: &podFacts{digest: "old", node: "node-a"}}, stays},
		"stopped on it":                      {facts{bottle: placed().Stopped().Obj(), pod: boundTo("node-a")}, stays},
		"its Pod ended":                      {facts{bottle: placed().Obj(), pod: &podFacts{digest: "d", node: "node-a", ended: "Failed"}}, outcome{Pod: podCreate, Pin: "node-a", NodeName: "node-a", CPUs: 4, Conditions: ended}},
		"its Pod ended again":                {facts{bottle: placed().Obj(), pod: &podFacts{digest: "d", node: "node-a", ended: "Failed", wait: 1}}, outcome{NodeName: "node-a", CPUs: 4, Conditions: ended}},
		"its Pod ended, another refused":     {facts{bottle: placed().Obj(), pod: &podFacts{digest: "d", node: "node-a", ended: "Failed"}, refusal: "quota"}, outcome{NodeName: "node-a", CPUs: 4, Conditions: ended}},
		"its Pod ended on no node":           {facts{bottle: placed().Obj(), pod: &podFacts{digest: "d", ended: "Failed"}}, outcome{Pod: podCreate, Pin: "node-a", NodeName: "node-a", CPUs: 4, Conditions: ended}},
		"its Pod ended, then deleted":        {facts{bottle: placed().Obj(), pod: &podFacts{digest: "d", node: "node-a", ended: "Failed", deleting: true}}, outcome{Pod: podCreate, Pin: "node-a", NodeName: "node-a", CPUs: 4, Conditions: ended}},
		"its Pod ended, deleted in a pause":  {facts{bottle: reported("True", v1alpha1.ReasonPlaceholderEnded).Obj(), pod: &podFacts{digest: "d", node: "node-a", ended: "Failed", deleting: true, evicted: "evicted", wait: 1}}, outcome{NodeName: "node-a", CPUs: 4, Conditions: ended}},
		"its surplus Pod removed":            {facts{bottle: placed().Obj(), pod: &podFacts{digest: "d", node: "node-a", unheld: true, marked: true, deleting: true}}, outcome{NodeName: "node-a", CPUs: 4, Conditions: []string{"Scheduled True Scheduled"}}},
		"its Pod deleted, then ended":        {facts{bottle: placed().Obj(), pod: &podFacts{digest: "d", node: "node-a", ended: "Failed", deleting: true, evicted: "evicted"}}, outcome{NodeName: "node-a", CPUs: 4, Conditions: []string{"Scheduled False Evicted"}}},
		"drained, and its Pod ended since":   {facts{bottle: reported("False", v1alpha1.ReasonEvicted).Obj(), pod: &podFacts{digest: "d", node: "node-a", ended: "Failed", deleting: true}}, outcome{NodeName: "node-a", CPUs: 4, Conditions: []string{"Scheduled False Evicted"}}},
		"its Pod ended, its node gone":       {facts{bottle: placed().Obj(), pod: &podFacts{digest: "d", node: "node-a", ended: "Failed"}, home: nodeFacts{gone: true}}, outcome{NodeName: "node-a", CPUs: 4, Conditions: []string{"Scheduled False Evicted"}}},
		"its new Pod not yet accepted":       {facts{bottle: placed().Obj(), pod: &podFacts{digest: "d", node: "node-a", failures: 1}}, outcome{NodeName: "node-a", CPUs: 4, Conditions: ended}},
		"its new Pod accepted":               {facts{bottle: placed().Obj(), pod: &podFacts{digest: "d", node: "node-a", failures: 1, running: true}}, stays},
		"its new Pod, with a machine":        {facts{bottle: withMachine(), pod: &podFacts{digest: "d", node: "node-a", failures: 1}}, stays},
		"its Pod gone by force":              {facts{bottle: placed().Obj()}, outcome{Pod: podCreate, Pin: "node-a", NodeName: "node-a", CPUs: 4, Conditions: stays.Conditions}},
		"its new Pod refused":                {facts{bottle: placed().Obj(), refusal: "quota"}, stays},
		"its namespace deleted":              {facts{bottle: placed().Obj(), namespaceTerminating: true}, stays},
		"its Pod on another node":            {facts{bottle: placed().Obj(), pod: boundTo("node-b")}, outcome{Pod: podRemove, NodeName: "node-a", CPUs: 4, Conditions: stays.Conditions}},
		"its Pod on another node, being deleted": {facts{bottle: placed().Obj(), pod: leaving("node-b")},
			outcome{Pod: podRemove, NodeName: "node-a", CPUs: 4, Conditions: stays.Conditions}},
		"drained": {facts{bottle: placed().Obj(), pod: leaving("node-a")}, outcome{NodeName: "node-a", CPUs: 4, Conditions: []string{"Scheduled False Evicted"}}},
		"agent lost": {facts{bottle: placed().Obj(), pod: boundTo("node-a"), home: nodeFacts{agentLost: true}},
			outcome{NodeName: "node-a", CPUs: 4, Conditions: append(agentLost[:2:2], "Scheduled True Scheduled")}},
		"drained, agent lost": {facts{bottle: placed().Obj(), pod: leaving("node-a"), home: nodeFacts{agentLost: true}},
			outcome{NodeName: "node-a", CPUs: 4, Conditions: append(agentLost[:2:2], "Scheduled False Evicted")}},
		"out of service, agent alive": {facts{bottle: placed().Obj(), pod: boundTo("node-a"), home: nodeFacts{outOfService: true}}, stays},
		"gone, agent alive": {facts{bottle: placed().Obj(), pod: boundTo("node-a"), home: nodeFacts{gone: true}},
			outcome{NodeName: "node-a", CPUs: 4, Conditions: []string{"Scheduled False Evicted"}}},
		"lost": {facts{bottle: placed().Obj(), pod: boundTo("node-a"), home: lost},
			outcome{Clear: true, CPUs: 2, Conditions: []string{"Scheduled False NodeLost", "Ready False NodeLost"}}},
		"out of service and lost": {facts{bottle: placed().Obj(), pod: leaving("node-a"), home: nodeFacts{outOfService: true, agentLost: true}},
			outcome{Clear: true, CPUs: 2, Conditions: []string{"Scheduled False NodeLost", "Ready False NodeLost"}}},
		"booking lost": {facts{bottle: bottle().On("node-a").Obj(), pod: boundTo("node-a")}, outcome{NodeName: "node-a", CPUs: 2, Conditions: stays.Conditions}},

		// Being deleted.
		"deleted":                    {facts{bottle: placed().Deleted(now).Obj(), pod: boundTo("node-a")}, outcome{NodeName: "node-a", CPUs: 4}},
		"deleted with its Pod":       {facts{bottle: placed().Deleted(now).Obj(), pod: leaving("node-a")}, outcome{NodeName: "node-a", CPUs: 4}},
		"deleted without a Pod":      {facts{bottle: placed().Deleted(now).Obj()}, outcome{NodeName: "node-a", CPUs: 4}},
		"deleted, agent lost":        {facts{bottle: placed().Deleted(now).Obj(), home: nodeFacts{agentLost: true}}, outcome{NodeName: "node-a", CPUs: 4, Conditions: agentLost}},
		"deleted on a lost node":     {facts{bottle: placed().Deleted(now).Obj(), home: lost}, outcome{DropFinalizer: true}},
		"deleted between nodes":      {facts{bottle: bottle().Finalizer(v1alpha1.FinalizerNode).Deleted(now).Obj(), pod: unbound}, outcome{DropFinalizer: true}},
		"deleted and torn down":      {facts{bottle: bottle().On("node-a").Deleted(now).Obj(), pod: boundTo("node-a")}, outcome{Pod: podRemove}},
		"deleted before its node":    {facts{bottle: bottle().Deleted(now).Obj(), pod: unbound}, outcome{Pod: podRemove}},
		"deleted and nothing left":   {facts{bottle: bottle().Deleted(now).Obj()}, outcome{}},
		"deleted, another finalizer": {facts{bottle: bottle().Finalizer("x/y").Deleted(now).Obj()}, outcome{}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tc.facts.desired = desiredPod{resources: v1alpha1.ResourcesStatus{CPUs: 2, Memory: resource.MustParse("1Gi")}, digest: "d"}
			if diff := cmp.Diff(tc.want, outcomeOf(decide(tc.facts))); diff != "" {
				t.Errorf("decision (-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever the facts are, a Bottle's node changes only from none to the
// placeholder's node, and is cleared only when the node is lost.
func TestNeverOnTwoNodes(t *testing.T) {
	for _, f := range allFacts() {
		on := ""
		if f.bottle.Status.NodeName != nil {
			on = *f.bottle.Status.NodeName
		}
		d := decide(f)
		switch {
		case d.clear && !f.home.lost():
			t.Errorf("got the node cleared with %+v, want that only when it is lost", f.home)
		case d.status != nil && !d.clear && on != "" && d.status.nodeName != on:
			t.Errorf("got node %q for a Bottle on %q", d.status.nodeName, on)
		case d.status != nil && on == "" && d.status.nodeName != "" && (f.pod == nil || f.pod.deleting || f.pod.flaw != "" || f.pod.ended != "" || d.status.nodeName != f.pod.node):
			t.Errorf("got node %q from Pod %+v", d.status.nodeName, f.pod)
		case d.pod == podRemove && on != "" && f.pod.node == on && f.bottle.DeletionTimestamp.IsZero() && !released(f.bottle):
			t.Errorf("got the placeholder on %q removed although the Bottle is there", on)
		case d.pod == podCreate && f.pod != nil && (f.pod.ended == "" || f.pod.wait > 0):
			t.Errorf("got a second placeholder beside %+v", f.pod)
		case d.status != nil && f.pod != nil && f.pod.ended != "" && f.pod.evicted == "" && !f.home.gone && f.bottle.DeletionTimestamp.IsZero() && evicts(d):
			t.Errorf("got the Bottle evicted because of %+v", f.pod)
		case d.pod == podReplace && (on == "" || f.pod.deleting || f.pod.unbooked == "" && f.pod.outdated == ""):
			t.Errorf("got Pod %+v replaced for a Bottle on %q", f.pod, on)
		case d.pod == podReplace && !replaceable(f):
			t.Errorf("got Pod %+v replaced although a machine may run in it", f.pod)
		case d.pod == podCreate && d.pin != on:
			t.Errorf("got a placeholder pinned to %q for a Bottle on %q", d.pin, on)
		case d.dropFinalizer && on != "" && !f.home.lost():
			t.Errorf("got the finalizer dropped on node %q with %+v", on, f.home)
		}
	}
}

// evicts reports whether a decision tells the agent to remove the machine.
func evicts(d decision) bool {
	c := meta.FindStatusCondition(d.status.asserted, v1alpha1.ConditionScheduled)
	return c != nil && c.Reason == v1alpha1.ReasonEvicted
}

// allFacts returns every combination of the facts that a decision depends on.
func allFacts() []facts {
	pods := []*podFacts{nil}
	for _, node := range []string{"", "node-a", "node-b"} {
		for _, digest := range []string{"d", "old"} {
			for i := range 64 {
				pod := &podFacts{node: node, digest: digest, deleting: i&1 > 0, unheld: i&2 > 0}
				if i&4 > 0 {
					pod.flaw, pod.unbooked = "requests less", "requests less"
				}
				if digest == "old" {
					pod.outdated = "spec.bundle has changed"
				}
				if i&8 > 0 {
					pod.wait = time.Second
				}
				if i&16 > 0 {
					pod.ended = "Failed"
				}
				if i&32 > 0 {
					pod.evicted = "evicted"
				}
				pods = append(pods, pod)
			}
		}
	}
	var verdicts []nodeFacts
	for i := range 8 {
		verdicts = append(verdicts, nodeFacts{gone: i&1 > 0, outOfService: i&2 > 0, agentLost: i&4 > 0})
	}
	var all []facts
	for i := range 48 {
		b := builders.MakeBottle("a")
		if i >= 16 {
			b = inItsPod(b)
		}
		if i >= 32 {
			b.Condition(metav1.Condition{Type: v1alpha1.ConditionBundleReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonPodOutdated})
		}
		if i&1 > 0 {
			b.On("node-a")
		}
		if i&2 > 0 {
			b.Deleted(time.Unix(0, 0))
		}
		if i&4 > 0 {
			b.Finalizer(v1alpha1.FinalizerNode)
		}
		if i&8 > 0 {
			b.Stopped()
		}
		for _, pod := range pods {
			for _, home := range verdicts {
				for _, refusal := range []string{"", "quota"} {
					all = append(all, facts{bottle: b.Obj(), pod: pod, home: home, refusal: refusal, desired: desiredPod{digest: "d"}})
				}
			}
		}
	}
	return all
}
