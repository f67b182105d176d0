// SPDX-License-Identifier: Apache-2.0

package argocd

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/agentstatus"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/kstatus"
)

// way is one of the ways in which the operator gives a reason. Health depends on it, and
// not on the reason.
type way struct {
	name   string
	health string
	// statuses returns Bottles in all states in which a reason is given in this way.
	statuses func(reason string) []*v1alpha1.Bottle
}

var ways = []way{
	{"a step of the agent waits", progressing, func(reason string) []*v1alpha1.Bottle { return atSomeStep(flow.KindWait, reason) }},
	{"the user must change something", degraded, func(reason string) []*v1alpha1.Bottle { return atSomeStep(flow.KindTerminal, reason) }},
	{"the agent could not find out", progressing, func(reason string) []*v1alpha1.Bottle { return atSomeStep(flow.KindRetry, reason) }},
	{"a leak", degraded, func(string) []*v1alpha1.Bottle {
		return []*v1alpha1.Bottle{byAgent(agentstatus.Input{Leak: "something was reached"})}
	}},
	{"all is done", healthy, func(reason string) []*v1alpha1.Bottle {
		return []*v1alpha1.Bottle{
			byAgent(agentstatus.Input{Proof: &state.Proof{Reason: reason, Message: "proven"}}),
			byAgent(agentstatus.Input{Pending: "a change waits", Refused: "a rule is refused"}),
			bottleWith(seen, "Scheduled True Scheduled", "Ready True "+reason),
		}
	}},
	{"the Bottle leaves its node", progressing, func(reason string) []*v1alpha1.Bottle {
		b := builders.MakeBottle("a").Generation(3).Obj()
		b.Status.Conditions = agentstatus.Leaving(b, time.Unix(1, 0), reason, errors.New("the machine is being stopped"))
		return []*v1alpha1.Bottle{b}
	}},
	{"the Bottle has no node", progressing, func(reason string) []*v1alpha1.Bottle {
		return []*v1alpha1.Bottle{bottleWith(nil, "Scheduled False "+reason, "Ready False "+reason)}
	}},
	{"it is stopped without a node", healthy, func(reason string) []*v1alpha1.Bottle {
		return []*v1alpha1.Bottle{bottleWith(nil, "Scheduled False "+reason, "Ready True "+reason)}
	}},
	{"the manager speaks for an agent", progressing, func(reason string) []*v1alpha1.Bottle {
		return []*v1alpha1.Bottle{bottleWith(seen, "MachineReady True MachineRunning", "EgressEnforced Unknown "+reason, "Ready Unknown "+reason)}
	}},
}

var seen = ptr.To[int64](3)

// apiReasons returns the values of the constants Reason… of the API.
func apiReasons(t *testing.T) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, "api/v1alpha1/condition_types.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 || !strings.HasPrefix(spec.Names[0].Name, "Reason") {
			return true
		}
		if literal, ok := spec.Values[0].(*ast.BasicLit); ok {
			value, err := strconv.Unquote(literal.Value)
			if err != nil {
				t.Fatal(err)
			}
			found[value] = true
		}
		return true
	})
	if len(found) < 60 {
		t.Fatalf("got %d reasons in the API, want all", len(found))
	}
	return slices.Sorted(maps.Keys(found))
}

// Argo CD shows for each reason, in whatever way the operator gives it, what kstatus says
// of the status. A new reason is covered at once, and an installed script need not know it.
func TestHealthOfEachReason(t *testing.T) {
	for _, reason := range apiReasons(t) {
		for _, way := range ways {
			for _, b := range way.statuses(reason) {
				if problems := kstatus.Check(b); len(problems) > 0 && reason != v1alpha1.ReasonBlocked && reason != v1alpha1.ReasonError {
					t.Fatalf("%s (%s): got a status that the operator never writes: %q", reason, way.name, problems)
				}
				u := toUnstructured(t, b)
				got, message := healthOf(t, u.Object)
				if want := asKstatus(t, u); got != way.health || got != want || message == "" {
					t.Errorf("%s (%s): got %s (%q), want %s; kstatus says %s of\n%v", reason, way.name, got, message, way.health, want, b.Status.Conditions)
				}
			}
		}
	}
}

// atSomeStep returns a Bottle of which a pass ended at one of the steps. The reasons are
// spread over the steps, because a pass of each reason at each step takes too long.
func atSomeStep(kind flow.Kind, reason string) []*v1alpha1.Bottle {
	i := len(reason) % len(agentSteps)
	return []*v1alpha1.Bottle{byAgent(agentstatus.Input{}, outcomesUntil(i, flow.Outcome{Kind: kind, Reason: reason, Message: "said by a test"})...)}
}

// agentSteps are the conditions that the agent's steps report, in their order.
var agentSteps = []string{v1alpha1.ConditionNetworkReady, v1alpha1.ConditionSmolfileReady, v1alpha1.ConditionBundleReady,
	v1alpha1.ConditionMachineReady, v1alpha1.ConditionEgressEnforced}

// outcomesUntil returns the outcomes of a pass that step i ended.
func outcomesUntil(i int, last flow.Outcome) (outcomes []agentstatus.StepOutcome) {
	for k, step := range agentSteps {
		o := flow.Outcome{Kind: flow.KindDone}
		if k == i {
			o = last
		} else if k > i {
			o = flow.Outcome{Kind: flow.KindBlocked, Message: "waits for an earlier step"}
		}
		outcomes = append(outcomes, agentstatus.StepOutcome{Condition: step, Outcome: o})
	}
	return outcomes
}

// byAgent returns a Bottle with the status that the agent writes after a pass with these
// outcomes; without any, all steps are done.
func byAgent(in agentstatus.Input, outcomes ...agentstatus.StepOutcome) *v1alpha1.Bottle {
	if len(outcomes) == 0 {
		outcomes = outcomesUntil(len(agentSteps), flow.Outcome{})
	}
	b := builders.MakeBottle("a").Generation(3).Obj()
	in.Bottle, in.Outcomes, in.PendingKnown = b, outcomes, true
	if in.Proof == nil {
		in.Proof = &state.Proof{Reason: v1alpha1.ReasonBothWalls, Message: "proven"}
	}
	var observed bool
	b.Status.Conditions, observed = agentstatus.Conditions(in, time.Unix(1, 0))
	if observed {
		b.Status.ObservedGeneration = &b.Generation
	}
	return b
}
