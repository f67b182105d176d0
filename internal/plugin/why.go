// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubectl/pkg/util/templates"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/rulenames"
)

func (p *plugin) newWhy() *cobra.Command {
	return &cobra.Command{
		Use:                   "why NAME",
		DisableFlagsInUseLine: true,
		Short:                 "Say why a Bottle is in its state, and what to do next",
		Long: templates.LongDesc(`
			Walks through the conditions of the Bottle, in the order in which they are met, and
			says what the one that matters means and what to do next.`),
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.completeName(),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := p.interruptible(cmd.Context())
			defer cancel()
			c, err := p.client()
			if err != nil {
				return err
			}
			b, err := c.get(ctx, args[0])
			if err != nil {
				return err
			}
			return explain(p.Out, b)
		},
	}
}

// way are the conditions on the way to a running Bottle, in the order in which they are
// met.
var way = []string{
	v1alpha1.ConditionScheduled, v1alpha1.ConditionNetworkReady, v1alpha1.ConditionSmolfileReady,
	v1alpha1.ConditionBundleReady, v1alpha1.ConditionMachineReady, v1alpha1.ConditionEgressEnforced,
}

// notes are conditions that say more when they are present.
var notes = []string{
	v1alpha1.ConditionFilesOpen, v1alpha1.ConditionPendingRestart, v1alpha1.ConditionEgressLimited,
}

// explain writes the conditions and what to do.
func explain(w io.Writer, b *v1alpha1.Bottle) error {
	conditions := b.Status.Conditions
	rows := [][]string{{"CONDITION", "STATUS", "REASON"}}
	for _, t := range append(append([]string{v1alpha1.ConditionReady}, way...), v1alpha1.ConditionFinished, v1alpha1.ConditionFilesOpen, v1alpha1.ConditionPendingRestart, v1alpha1.ConditionEgressLimited, v1alpha1.ConditionStalled) {
		if c := meta.FindStatusCondition(conditions, t); c != nil {
			rows = append(rows, []string{t, string(c.Status), c.Reason})
		}
	}
	if len(rows) == 1 {
		fmt.Fprintln(w, "The operator has not looked at this Bottle yet. If that stays so, check that its manager runs.")
		return nil
	}
	if err := table(w, rows); err != nil {
		return err
	}
	fmt.Fprintln(w)
	var more strings.Builder
	explainMore(&more, b)
	switch c := decisive(b); {
	case c != nil:
		explainCondition(w, c)
	case more.Len() > 0:
		fmt.Fprintln(w, "The Bottle runs, and it is proven that it can reach nothing but its bundle.")
	default:
		fmt.Fprintln(w, "The Bottle runs, and it is proven that it can reach nothing but its bundle. There is nothing to do.")
	}
	fmt.Fprint(w, more.String())
	explainWorkload(w, b)
	return nil
}

// explainMore writes what may need attention besides the condition that decides.
func explainMore(w io.Writer, b *v1alpha1.Bottle) {
	for _, t := range notes {
		if c := meta.FindStatusCondition(b.Status.Conditions, t); c != nil && c.Status == metav1.ConditionTrue {
			fmt.Fprintln(w)
			explainCondition(w, c)
		}
	}
	for _, note := range []string{missingCredentials(b), rulenames.Note(&b.Spec)} {
		if note != "" {
			fmt.Fprintf(w, "\nNote: %s.\n", clean(note))
		}
	}
	if e := b.Status.Egress; e != nil && len(e.RecentDenials) > 0 {
		fmt.Fprintf(w, "\nThe bundle has denied requests of the guest. See: kubectl bottle egress %s -n %s\n", b.Name, b.Namespace)
	}
}

// missingCredentials says which credentials the bundle does not have; "" if there are none,
// or if the bundle does not run.
func missingCredentials(b *v1alpha1.Bottle) string {
	if !meta.IsStatusConditionTrue(b.Status.Conditions, v1alpha1.ConditionBundleReady) {
		return ""
	}
	var has []v1alpha1.CredentialStatus
	if b.Status.Egress != nil {
		has = b.Status.Egress.Credentials
	}
	return rulenames.Missing(&b.Spec, has)
}

// decisive returns the condition that says why the Bottle is in its state: the first one
// on the way that is not met, Finished, or Ready if it says more than the others. It
// returns nil if the Bottle runs and everything is as it should be.
func decisive(b *v1alpha1.Bottle) *metav1.Condition {
	conditions := b.Status.Conditions
	if c := meta.FindStatusCondition(conditions, v1alpha1.ConditionFinished); c != nil && c.Status == metav1.ConditionTrue {
		return c
	}
	ready := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady)
	if ready != nil && ready.Status == metav1.ConditionTrue {
		if ready.Reason == v1alpha1.ReasonReady {
			return nil
		}
		return ready // such as Stopped
	}
	for _, t := range way {
		c := meta.FindStatusCondition(conditions, t)
		if c != nil && c.Status != metav1.ConditionTrue && c.Reason != v1alpha1.ReasonBlocked {
			return c
		}
	}
	return ready
}

// explainCondition writes the message of a condition, what its reason means, and what to
// do.
func explainCondition(w io.Writer, c *metav1.Condition) {
	fmt.Fprintf(w, "%s is %s: %s\n", clean(c.Type), clean(string(c.Status)), clean(c.Reason))
	fmt.Fprintf(w, "   Message:     %s\n", clean(c.Message))
	about := adviceFor(c.Reason)
	if about.means != "" {
		fmt.Fprintf(w, "   Meaning:     %s\n", about.means)
	}
	switch {
	case about.do != "":
		fmt.Fprintf(w, "   What to do:  %s\n", about.do)
	case c.Status != metav1.ConditionTrue:
		fmt.Fprintln(w, "   What to do:  What the message says; otherwise wait: the operator goes on by itself.")
	}
}

// explainWorkload writes how the command last ended.
func explainWorkload(w io.Writer, b *v1alpha1.Bottle) {
	load := b.Status.Workload
	switch {
	case load == nil || load.FinishTime == nil:
		return
	case load.Signal != nil:
		fmt.Fprintf(w, "\nThe command last ended with signal %s.", clean(*load.Signal))
	case load.ExitCode != nil:
		fmt.Fprintf(w, "\nThe command last ended with exit code %d.", *load.ExitCode)
	default:
		return
	}
	if load.NextStartTime != nil {
		fmt.Fprint(w, " It is started again after a pause.")
	}
	fmt.Fprintf(w, " See: kubectl bottle logs %s -n %s\n", b.Name, b.Namespace)
}
