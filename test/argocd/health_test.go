// SPDX-License-Identifier: Apache-2.0

package argocd

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	lua "github.com/yuin/gopher-lua"
	"github.com/yuin/gopher-lua/parse"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
)

const root = "../.."

const (
	healthy     = "Healthy"
	progressing = "Progressing"
	degraded    = "Degraded"
)

// script is the compiled script.
var script = sync.OnceValues(func() (*lua.FunctionProto, error) {
	const name = "config/argocd/health.lua"
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		return nil, err
	}
	chunk, err := parse.Parse(bytes.NewReader(text), name)
	if err != nil {
		return nil, err
	}
	return lua.Compile(chunk, name)
})

// healthOf runs the script on a Bottle as Argo CD does for scripts in argocd-cm
// (util/lua in its repository): with these libraries only, within a second.
func healthOf(t *testing.T, object map[string]any) (health, message string) {
	t.Helper()
	compiled, err := script()
	if err != nil {
		t.Fatal(err)
	}
	l := lua.NewState(lua.Options{SkipOpenLibs: true, RegistrySize: 1024})
	defer l.Close()
	for name, open := range map[string]lua.LGFunction{lua.LoadLibName: lua.OpenPackage, lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable} {
		if err := l.CallByParam(lua.P{Fn: l.NewFunction(open), Protect: true}, lua.LString(name)); err != nil {
			t.Fatal(err)
		}
	}
	// Argo CD allows one second. A loaded test machine gets more, and a script that
	// never ends still fails.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l.SetContext(ctx)
	l.SetGlobal("obj", luaValue(l, object))
	l.Push(l.NewFunctionFromProto(compiled))
	if err := l.PCall(0, lua.MultRet, nil); err != nil {
		t.Fatalf("run the script on %v: %v", object, err)
	}
	table, ok := l.Get(-1).(*lua.LTable)
	if !ok {
		t.Fatalf("got %v from the script, want a table", l.Get(-1))
	}
	return table.RawGetString("status").String(), table.RawGetString("message").String()
}

func luaValue(l *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case string:
		return lua.LString(value)
	case bool:
		return lua.LBool(value)
	case int64:
		return lua.LNumber(value)
	case []any:
		table := l.NewTable()
		for _, item := range value {
			table.Append(luaValue(l, item))
		}
		return table
	case map[string]any:
		table := l.NewTable()
		for key, item := range value {
			table.RawSetString(key, luaValue(l, item))
		}
		return table
	case nil:
		return lua.LNil
	default:
		panic(fmt.Sprintf("a Bottle has no %T", value))
	}
}

func toUnstructured(t *testing.T, b *v1alpha1.Bottle) *unstructured.Unstructured {
	t.Helper()
	b = b.DeepCopy()
	b.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Bottle"))
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(b)
	if err != nil {
		t.Fatal(err)
	}
	return &unstructured.Unstructured{Object: object}
}

// asKstatus returns the health that corresponds to what kstatus says.
func asKstatus(t *testing.T, u *unstructured.Unstructured) string {
	t.Helper()
	result, err := status.Compute(u)
	if err != nil {
		t.Fatal(err)
	}
	health, known := map[status.Status]string{
		status.CurrentStatus: healthy, status.InProgressStatus: progressing, status.TerminatingStatus: progressing, status.FailedStatus: degraded,
	}[result.Status]
	if !known {
		t.Fatalf("got %s from kstatus, want a status with a known health", result.Status)
	}
	return health
}

// condition returns a condition of generation 3, "TYPE STATUS REASON".
func condition(text string) metav1.Condition {
	words := strings.Fields(text)
	return metav1.Condition{Type: words[0], Status: metav1.ConditionStatus(words[1]), Reason: words[2],
		Message: "said " + words[0], ObservedGeneration: 3, LastTransitionTime: metav1.NewTime(time.Unix(1, 0))}
}

// bottleWith returns a Bottle of generation 3 with these conditions.
func bottleWith(observed *int64, conditions ...string) *v1alpha1.Bottle {
	b := builders.MakeBottle("a").Generation(3).Obj()
	b.Status.ObservedGeneration = observed
	for _, text := range conditions {
		b.Status.Conditions = append(b.Status.Conditions, condition(text))
	}
	return b
}

// The script agrees with kstatus on every combination of what kstatus reads.
func TestHealthAgreesWithKstatus(t *testing.T) {
	number := 0
	for _, ready := range []string{"Ready True Ready", "Ready False Progressing", "Ready Unknown AgentLost"} {
		for _, reconciling := range []string{"", "Reconciling True Progressing", "Reconciling False Ready", "Reconciling Unknown Error"} {
			for _, stalled := range []string{"", "Stalled True LeakDetected", "Stalled False Ready", "Stalled Unknown Error"} {
				for _, observed := range []*int64{nil, ptr.To[int64](2), ptr.To[int64](3)} {
					for _, deleted := range []*metav1.Time{nil, {Time: time.Unix(1, 0)}} {
						b := bottleWith(observed, "Scheduled True Scheduled")
						for _, text := range []string{reconciling, stalled, ready} {
							if text != "" {
								b.Status.Conditions = append(b.Status.Conditions, condition(text))
							}
						}
						b.DeletionTimestamp = deleted
						u := toUnstructured(t, b)
						got, message := healthOf(t, u.Object)
						if want := asKstatus(t, u); got != want || message == "" {
							t.Errorf("%s, %q, %q, observed %v, deleted %v: got %s (%q), want %s and a message", ready, reconciling, stalled, observed, deleted, got, message, want)
						}
						number++
					}
				}
			}
		}
	}
	t.Logf("%d combinations", number)
}

func TestHealth(t *testing.T) {
	three := ptr.To[int64](3)
	// older returns the Bottle with all of its conditions from generation 2.
	older := func(b *v1alpha1.Bottle) *v1alpha1.Bottle {
		for i := range b.Status.Conditions {
			b.Status.Conditions[i].ObservedGeneration = 2
		}
		return b
	}
	deleted := bottleWith(three, "Ready True Ready")
	deleted.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	tests := map[string]struct {
		bottle  *v1alpha1.Bottle
		health  string
		message string
	}{
		"just created":      {bottleWith(nil, "Ready Unknown Pending"), progressing, "Pending: said Ready"},
		"between two nodes": {bottleWith(nil, "Scheduled False Evicted", "Ready False Evicted"), progressing, "Evicted: said Ready"},
		// kstatus calls this Current, because it does not know that a Bottle always has a
		// Ready condition.
		"without a status":  {bottleWith(nil), progressing, "waiting for the operator"},
		"unschedulable":     {bottleWith(nil, "Scheduled False Unschedulable", "Ready False Unschedulable"), progressing, "Unschedulable: said Ready"},
		"starting":          {bottleWith(nil, "Ready False MachineStarting", "Reconciling True Progressing"), progressing, "MachineStarting: said Ready"},
		"running":           {bottleWith(three, "Ready True Ready"), healthy, "Ready: said Ready"},
		"unproven":          {bottleWith(three, "Ready True Unproven"), healthy, "Unproven: said Ready"},
		"stopped":           {bottleWith(three, "Ready True Stopped"), healthy, "Stopped: said Ready"},
		"completed":         {bottleWith(three, "Finished True Completed", "Ready True Completed"), healthy, "Completed: said Ready"},
		"failed":            {bottleWith(three, "Finished True Failed", "Ready False Failed", "Stalled True Failed"), degraded, "Failed: said Stalled"},
		"too late":          {bottleWith(three, "Finished True DeadlineExceeded", "Ready False DeadlineExceeded", "Stalled True DeadlineExceeded"), degraded, "DeadlineExceeded: said Stalled"},
		"never placed":      {bottleWith(nil, "Scheduled False Stopped", "Ready True Stopped"), healthy, "Stopped: said Ready"},
		"changed, not seen": {older(bottleWith(ptr.To[int64](2), "Ready True Ready")), progressing, "waiting for the operator to act on the changed spec"},
		// The manager does not write observedGeneration, so only the condition is old,
		// which kstatus does not look at.
		"stopped, changed, not seen": {older(bottleWith(nil, "Ready True Stopped")), progressing, "waiting for the operator to act on the changed spec"},
		"stalled before the change":  {older(bottleWith(ptr.To[int64](2), "Ready False EnvInvalid", "Stalled True EnvInvalid")), progressing, "waiting for the operator to act on the changed spec"},
		"changed, seen":              {bottleWith(ptr.To[int64](2), "Ready False MachineStarting", "Reconciling True Progressing"), progressing, "MachineStarting: said Ready"},
		"stalled":                    {bottleWith(three, "Ready False EnvInvalid", "Stalled True EnvInvalid"), degraded, "EnvInvalid: said Stalled"},
		"a leak":                     {bottleWith(three, "EgressEnforced False LeakDetected", "Ready False LeakDetected", "Stalled True LeakDetected"), degraded, "LeakDetected: said Stalled"},
		"agent lost":                 {bottleWith(three, "Ready Unknown AgentLost", "EgressEnforced Unknown AgentLost"), progressing, "AgentLost: said Ready"},
		"agent lost after a leak":    {bottleWith(three, "Ready Unknown AgentLost", "Stalled True LeakDetected"), degraded, "LeakDetected: said Stalled"},
		"leaving":                    {bottleWith(three, "Ready False Terminating", "Reconciling True Terminating"), progressing, "Terminating: said Ready"},
		"deleted":                    {deleted, progressing, "the Bottle is being deleted"},
		"a change waits":             {bottleWith(three, "Ready True Ready", "PendingRestart True SpecChanged"), healthy, "Ready: said Ready; PendingRestart: said PendingRestart"},
		"a rule is refused":          {bottleWith(three, "Ready True Ready", "EgressLimited True EgressRuleRefused"), healthy, "Ready: said Ready; EgressLimited: said EgressLimited"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if health, message := healthOf(t, toUnstructured(t, tc.bottle).Object); health != tc.health || message != tc.message {
				t.Errorf("got %s (%q), want %s (%q)", health, message, tc.health, tc.message)
			}
		})
	}
	if health, _ := healthOf(t, map[string]any{"metadata": map[string]any{"name": "a"}}); health != progressing {
		t.Errorf("got %s for an object without a status, want %s", health, progressing)
	}
	if health, _ := healthOf(t, map[string]any{"metadata": map[string]any{}, "status": map[string]any{"conditions": []any{map[string]any{"type": "Ready", "status": "True"}}}}); health != healthy {
		t.Errorf("got %s for a condition without a reason and a message, want %s", health, healthy)
	}
}
