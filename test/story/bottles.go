// SPDX-License-Identifier: Apache-2.0

package story

import (
	"context"
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// Apply creates each Bottle.
func (c *Cluster) Apply(t testing.TB, bottles ...*v1alpha1.Bottle) {
	t.Helper()
	for _, b := range bottles {
		if err := c.Create(t.Context(), b); err != nil {
			t.Fatalf("create Bottle %s: %v", b.Name, err)
		}
	}
}

// Change reads b, calls change and updates b. It retries on conflicts.
func (c *Cluster) Change(t testing.TB, b *v1alpha1.Bottle, change func()) {
	t.Helper()
	c.Eventually(t, "an update of Bottle "+b.Name, func() (string, bool) {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(b), b); err != nil {
			return err.Error(), false
		}
		change()
		err := c.Update(t.Context(), b)
		return fmt.Sprint(err), err == nil
	})
}

// DeleteAndWait deletes b and waits until it is gone.
func (c *Cluster) DeleteAndWait(t testing.TB, b *v1alpha1.Bottle) {
	t.Helper()
	if err := client.IgnoreNotFound(c.Delete(t.Context(), b)); err != nil {
		t.Fatal(err)
	}
	c.Eventually(t, "Bottle "+b.Name+" to be gone", func() (string, bool) {
		err := c.Get(context.Background(), client.ObjectKeyFromObject(b), b)
		return Conditions(b), apierrors.IsNotFound(err)
	})
}

// WaitFor reads b until done returns true.
func (c *Cluster) WaitFor(t testing.TB, b *v1alpha1.Bottle, what string, done func() bool) {
	t.Helper()
	c.Eventually(t, fmt.Sprintf("Bottle %s/%s %s", b.Namespace, b.Name, what), func() (string, bool) {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(b), b); err != nil {
			return err.Error(), false
		}
		return Conditions(b), done()
	})
}

// WaitRunning waits until each Bottle runs and is proven for its current
// generation.
func (c *Cluster) WaitRunning(t testing.TB, bottles ...*v1alpha1.Bottle) {
	t.Helper()
	for _, b := range bottles {
		c.WaitFor(t, b, "to run", func() bool { return Running(b) })
	}
}

// WaitReason waits until a condition of b has a reason, and returns the condition.
func (c *Cluster) WaitReason(t testing.TB, b *v1alpha1.Bottle, condition, reason string) metav1.Condition {
	t.Helper()
	c.WaitFor(t, b, "to be "+condition+" with reason "+reason, func() bool {
		got := meta.FindStatusCondition(b.Status.Conditions, condition)
		return got != nil && got.Reason == reason
	})
	return *meta.FindStatusCondition(b.Status.Conditions, condition)
}

// Running reports whether b is Ready, and therefore proven, for its current
// generation.
func Running(b *v1alpha1.Bottle) bool {
	return meta.IsStatusConditionTrue(b.Status.Conditions, v1alpha1.ConditionReady) &&
		b.Status.ObservedGeneration != nil && *b.Status.ObservedGeneration == b.Generation
}

// Conditions describes each condition on a line, for failure texts.
func Conditions(b *v1alpha1.Bottle) string {
	var s strings.Builder
	for _, c := range b.Status.Conditions {
		fmt.Fprintf(&s, "\n  %s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message)
	}
	return s.String()
}

// ID returns the name of b's machine, network and container.
func ID(b *v1alpha1.Bottle) string {
	return "bottle-" + b.Spec.Slug + "-" + string(b.UID)[:8]
}

// NodeOf returns the node that b is on, or "".
func NodeOf(b *v1alpha1.Bottle) string {
	if b.Status.NodeName == nil {
		return ""
	}
	return *b.Status.NodeName
}
