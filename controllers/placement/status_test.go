// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	testingclock "k8s.io/utils/clock/testing"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
)

// The manager stops applying a condition once the agent owns it, not before.
func TestConditionsToApply(t *testing.T) {
	then, now := metav1.Unix(1, 0), metav1.Unix(2, 0)
	cond := func(conditionType, status, reason string) metav1.Condition {
		return metav1.Condition{Type: conditionType, Status: metav1.ConditionStatus(status), Reason: reason, LastTransitionTime: then}
	}
	owned := func(types []string, fields string) []metav1.ManagedFieldsEntry {
		var keys []string
		for _, conditionType := range types {
			keys = append(keys, `"k:{\"type\":\"`+conditionType+`\"}":{".":{},"f:type":{},`+fields+`}`)
		}
		return []metav1.ManagedFieldsEntry{{Manager: "bottle-agent", Subresource: "status",
			FieldsV1: metav1.NewFieldsV1(`{"f:status":{"f:conditions":{` + strings.Join(keys, ",") + `}}}`)}}
	}
	agents := func(types ...string) []metav1.ManagedFieldsEntry {
		return owned(types, `"f:status":{},"f:reason":{},"f:message":{},"f:lastTransitionTime":{}`)
	}
	tests := map[string]struct {
		node     string
		have     []metav1.Condition
		fields   []metav1.ManagedFieldsEntry
		asserted []metav1.Condition
		want     []string
	}{
		"nothing yet":              {"node-a", nil, nil, []metav1.Condition{cond("Scheduled", "False", "Pending"), cond("Ready", "False", "Pending")}, []string{"Scheduled False Pending 2", "Ready False Pending 2"}},
		"unchanged status":         {"node-a", []metav1.Condition{cond("Scheduled", "False", "Pending")}, nil, []metav1.Condition{cond("Scheduled", "False", "Evicted")}, []string{"Scheduled False Evicted 1"}},
		"Ready has no other owner": {"node-a", []metav1.Condition{cond("Ready", "False", "Pending")}, nil, nil, []string{"Ready False Pending 1"}},
		"Ready is the agent's":     {"node-a", []metav1.Condition{cond("Ready", "False", "Proving")}, agents("Ready"), nil, nil},
		"others are the agent's":   {"node-a", []metav1.Condition{cond("Ready", "False", "Pending")}, agents("MachineReady"), nil, []string{"Ready False Pending 1"}},
		"taken over from agent":    {"node-a", []metav1.Condition{cond("Ready", "False", "Proving")}, agents("Ready"), []metav1.Condition{cond("Ready", "Unknown", "AgentLost")}, []string{"Ready Unknown AgentLost 2"}},
		"Scheduled is carried":     {"node-a", []metav1.Condition{cond("Scheduled", "True", "Scheduled")}, nil, nil, []string{"Scheduled True Scheduled 1"}},
		"partly the agent's":       {"node-a", []metav1.Condition{cond("EgressEnforced", "Unknown", "AgentLost")}, owned([]string{"EgressEnforced"}, `"f:status":{},"f:lastTransitionTime":{}`), nil, []string{"EgressEnforced Unknown AgentLost 1"}},
		"no egress without a node": {"", []metav1.Condition{cond("EgressEnforced", "Unknown", "AgentLost")}, nil, nil, nil},
		"MachineReady never":       {"node-a", []metav1.Condition{cond("MachineReady", "True", "MachineRunning")}, nil, nil, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			b := builders.MakeBottle("a").Generation(7).Obj()
			b.Status.Conditions, b.ManagedFields = tc.have, tc.fields
			var got []string
			for _, c := range conditionsToApply(b, &desiredStatus{nodeName: tc.node, asserted: tc.asserted}, now) {
				got = append(got, c.Type+" "+string(c.Status)+" "+c.Reason+" "+c.LastTransitionTime.UTC().Format("5"))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("conditions (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCut(t *testing.T) {
	long := strings.Repeat("🍾", longestMessage)
	got := cut(long)
	if len(got) > longestMessage || len(got) < longestMessage-4 || !strings.HasPrefix(long, got) {
		t.Errorf("got %d bytes, want a prefix of at most %d", len(got), longestMessage)
	}
	if got := cut("short"); got != "short" {
		t.Errorf("got %q, want it unchanged", got)
	}
}

// A Lease is valid for its duration after its last observed change, by our own
// clock.
func TestLeases(t *testing.T) {
	clock := testingclock.NewFakePassiveClock(time.Unix(1000, 0))
	pass := func(d time.Duration) { clock.SetTime(clock.Now().Add(d)) }
	l := newLeases(clock, 40*time.Second)
	lease := func(second int64, duration *int32) *coordinationv1.Lease {
		renewed := metav1.NewMicroTime(time.Unix(second, 0)) // by a clock that is unrelated to ours
		return &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{RenewTime: &renewed, LeaseDurationSeconds: duration}}
	}
	check := func(step string, lease *coordinationv1.Lease, want time.Duration) {
		t.Helper()
		if got := l.observe("node-a", lease); got != want {
			t.Errorf("%s: got %s left, want %s", step, got, want)
		}
	}
	check("no Lease yet", nil, 40*time.Second)
	pass(39 * time.Second)
	check("still no Lease", nil, time.Second)
	check("created", lease(5, ptr.To(int32(10))), 10*time.Second)
	pass(9 * time.Second)
	check("not renewed", lease(5, ptr.To(int32(10))), time.Second)
	check("renewed", lease(6, ptr.To(int32(10))), 10*time.Second)
	pass(11 * time.Second)
	check("expired", lease(6, ptr.To(int32(10))), -time.Second)
	check("renewed by a clock set back", lease(4, ptr.To(int32(10))), 10*time.Second)
	check("without a duration", lease(7, nil), 40*time.Second)
	check("with duration 0", lease(7, ptr.To(int32(0))), 40*time.Second)
	l.forget("node-a")
	pass(time.Minute)
	check("forgotten", lease(7, nil), 40*time.Second)
}

func TestNodeOfLease(t *testing.T) {
	for name, want := range map[string]string{"bottle-agent-node-a": "node-a", "bottle-manager": "", "bottle-agent-": ""} {
		if got := nodeOfLease(name); got != want {
			t.Errorf("%s: got node %q, want %q", name, got, want)
		}
	}
	if got := nodeOfLease(leaseName("a.b-c")); got != "a.b-c" {
		t.Errorf("got node %q, want a.b-c", got)
	}
}

func TestOptions(t *testing.T) {
	good := DefaultOptions()
	good.Namespace, good.BundleImage = "operator", "registry.test/bottle-operator:1.2.3"
	if err := good.validate(); err != nil {
		t.Fatalf("got %v for the defaults, want nil", err)
	}
	bad := map[string]func(*Options){
		"no namespace":      func(o *Options) { o.Namespace = "" },
		"no image":          func(o *Options) { o.BundleImage = "" },
		"no CPU":            func(o *Options) { o.DefaultCPUs = 0 },
		"17 CPUs":           func(o *Options) { o.DefaultCPUs = 17 },
		"little memory":     func(o *Options) { o.DefaultMemory.Set(1 << 20) },
		"negative overhead": func(o *Options) { o.OverheadCPU.Set(-1) },
		"negative disk":     func(o *Options) { o.DefaultDisk.Set(-1) },
		"no bundle CPU":     func(o *Options) { o.BundleCPU.Set(0) },
		"no bundle memory":  func(o *Options) { o.BundleMemory.Set(1 << 20) },
	}
	for name, change := range bad {
		o := good
		change(&o)
		if err := o.validate(); err == nil {
			t.Errorf("%s: got nil, want an error", name)
		}
	}
	if v1alpha1.ManagerFieldOwner == v1alpha1.AgentFieldOwner {
		t.Error("got one field manager for both, want two")
	}
}
