// SPDX-License-Identifier: Apache-2.0

// Package kstatus checks that a Bottle's status follows the rules of kstatus, on
// which kubectl wait, Flux and Argo CD rely. The rules are those of fluxcd's
// runtime/conditions/check. That package itself cannot be used here: it needs
// objects with methods that our types do not have, and it depends on Flux's API
// packages.
package kstatus

import (
	"fmt"
	"regexp"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// Require reports every rule that the Bottle's status breaks as a test error.
func Require(t testing.TB, b *v1alpha1.Bottle) {
	t.Helper()
	for _, problem := range Check(b) {
		t.Errorf("status of Bottle %s/%s: %s; it has\n%s", b.Namespace, b.Name, problem, describe(b))
	}
}

// Check returns a description of each rule that the Bottle's status breaks. A
// Bottle without conditions breaks none.
func Check(b *v1alpha1.Bottle) []string {
	if len(b.Status.Conditions) == 0 {
		return nil
	}
	c := &checker{bottle: b}
	c.types()
	for _, condition := range b.Status.Conditions {
		c.condition(condition)
	}
	c.summary()
	c.generations()
	return c.problems
}

type checker struct {
	bottle   *v1alpha1.Bottle
	problems []string
}

func (c *checker) add(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

func (c *checker) find(conditionType string) *metav1.Condition {
	return meta.FindStatusCondition(c.bottle.Status.Conditions, conditionType)
}

func (c *checker) is(conditionType string) bool {
	return meta.IsStatusConditionTrue(c.bottle.Status.Conditions, conditionType)
}

func (c *checker) types() {
	seen := map[string]bool{}
	for _, condition := range c.bottle.Status.Conditions {
		if seen[condition.Type] {
			c.add("%s appears twice", condition.Type)
		}
		seen[condition.Type] = true
	}
	// Between two nodes, Scheduled may be the only condition for a moment: the
	// agent has removed its conditions, and the manager has not replaced them yet.
	between := len(seen) == 1 && seen[v1alpha1.ConditionScheduled]
	if !seen[v1alpha1.ConditionReady] && !between {
		c.add("Ready is missing")
	}
}

var reasonPattern = regexp.MustCompile(`^[A-Z][A-Za-z0-9]*$`)

// onlyTrue reports whether a condition is present only while it is True.
func onlyTrue(name string) bool {
	return slices.ContainsFunc(v1alpha1.ConditionTypes, func(t v1alpha1.ConditionType) bool { return t.Type == name && t.OnlyTrue })
}

func (c *checker) condition(condition metav1.Condition) {
	name := condition.Type
	switch condition.Status {
	case metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown:
	default:
		c.add("%s has the status %q", name, condition.Status)
	}
	if onlyTrue(name) && condition.Status != metav1.ConditionTrue {
		c.add("%s is present and %s, want it absent unless True", name, condition.Status)
	}
	if !reasonPattern.MatchString(condition.Reason) {
		c.add("%s has the reason %q, want one in CamelCase", name, condition.Reason)
	}
	if condition.Message == "" {
		c.add("%s has no message", name)
	}
	if condition.LastTransitionTime.IsZero() {
		c.add("%s has no lastTransitionTime", name)
	}
	switch condition.Reason {
	case v1alpha1.ReasonBlocked:
		// An earlier step has not finished: nothing is known about this one.
		if condition.Status != metav1.ConditionUnknown {
			c.add("%s is %s with the reason Blocked, want Unknown", name, condition.Status)
		}
	case v1alpha1.ReasonError:
		if condition.Status == metav1.ConditionTrue && name != v1alpha1.ConditionStalled {
			c.add("%s is True with the reason Error", name)
		}
	}
}

// summary checks the conditions from which kstatus computes its summary:
// Ready=True means Current, Reconciling means InProgress and Stalled means Failed.
// At most one of them may be True.
func (c *checker) summary() {
	ready, reconciling, stalled := c.is(v1alpha1.ConditionReady), c.is(v1alpha1.ConditionReconciling), c.is(v1alpha1.ConditionStalled)
	if ready && reconciling {
		c.add("Ready and Reconciling are both True")
	}
	if ready && stalled {
		c.add("Ready and Stalled are both True")
	}
	if reconciling && stalled {
		c.add("Reconciling and Stalled are both True")
	}
	// While the agent is lost, the manager sets Ready to Unknown, and the agent's
	// last Stalled stays.
	r := c.find(v1alpha1.ConditionReady)
	if stalled && r != nil && r.Status == metav1.ConditionUnknown && r.Reason != v1alpha1.ReasonAgentLost {
		c.add("Stalled is True with Ready=Unknown (%s), want Ready=False", r.Reason)
	}
}

func (c *checker) generations() {
	b := c.bottle
	for _, condition := range b.Status.Conditions {
		if condition.ObservedGeneration > b.Generation {
			c.add("%s observed generation %d, but the Bottle is at %d", condition.Type, condition.ObservedGeneration, b.Generation)
		}
	}
	observed := b.Status.ObservedGeneration
	if observed == nil {
		return
	}
	if *observed > b.Generation {
		c.add("observedGeneration is %d, but the Bottle is at %d", *observed, b.Generation)
	}
	// These are final for their generation, so that generation must have been
	// observed.
	for _, name := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionStalled} {
		if final := c.find(name); final != nil && final.Status == metav1.ConditionTrue && final.ObservedGeneration > *observed {
			c.add("%s is True at generation %d, but observedGeneration is %d", name, final.ObservedGeneration, *observed)
		}
	}
}

func describe(b *v1alpha1.Bottle) string {
	text := fmt.Sprintf("generation %d", b.Generation)
	if b.Status.ObservedGeneration != nil {
		text += fmt.Sprintf(", observed %d", *b.Status.ObservedGeneration)
	}
	for _, c := range b.Status.Conditions {
		text += fmt.Sprintf("\n%s=%s/%s at %d: %s", c.Type, c.Status, c.Reason, c.ObservedGeneration, c.Message)
	}
	return text
}
