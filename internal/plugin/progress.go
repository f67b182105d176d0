// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"fmt"
	"io"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// progress shows the conditions on the way to a running Bottle, one line for each change
// of a status or reason. A new reason with the same message, as of a pull that is tried
// again and again, is not shown.
type progress struct {
	w     io.Writer
	shown map[string]metav1.Condition // by type
}

func newProgress(w io.Writer) *progress { return &progress{w, map[string]metav1.Condition{}} }

// show shows what has changed.
func (p *progress) show(b *v1alpha1.Bottle) {
	for _, t := range way {
		c := meta.FindStatusCondition(b.Status.Conditions, t)
		if c == nil || c.Reason == v1alpha1.ReasonBlocked || b.Status.Workload != nil {
			continue
		}
		last := p.shown[t]
		if c.Status == last.Status && (c.Reason == last.Reason || c.Message == last.Message) {
			continue
		}
		p.shown[t] = *c
		fmt.Fprintf(p.w, "%-15s %s: %s\n", t, clean(c.Reason), clean(c.Message))
		if do := adviceFor(c.Reason).do; do != "" && c.Status != metav1.ConditionTrue && needsUser[c.Reason] {
			fmt.Fprintf(p.w, "%-15s What to do: %s\n", "", do)
		}
	}
}

// needsUser are reasons that seldom go away by themselves, although the operator keeps
// trying.
var needsUser = map[string]bool{
	v1alpha1.ReasonUnschedulable:      true,
	v1alpha1.ReasonPlaceholderRefused: true,
	v1alpha1.ReasonErrImagePull:       true,
	v1alpha1.ReasonImagePullBackOff:   true,
	v1alpha1.ReasonImageNeverPull:     true,
	v1alpha1.ReasonImageNotFound:      true,
	v1alpha1.ReasonSecretNotFound:     true,
	v1alpha1.ReasonNodeNotReady:       true,
	v1alpha1.ReasonBootFailed:         true,
}

// isTrue reports whether a condition is True.
func isTrue(b *v1alpha1.Bottle, condition string) bool {
	return meta.IsStatusConditionTrue(b.Status.Conditions, condition)
}

// stalled returns the condition Stalled if the Bottle makes no progress until somebody
// changes something, and has not finished.
func stalled(b *v1alpha1.Bottle) *metav1.Condition {
	c := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionStalled)
	if c == nil || c.Status != metav1.ConditionTrue || isTrue(b, v1alpha1.ConditionFinished) {
		return nil
	}
	switch c.Reason {
	case v1alpha1.ReasonFailed, v1alpha1.ReasonDeadlineExceeded, v1alpha1.ReasonCompleted:
		return nil // Finished follows
	}
	return c
}
