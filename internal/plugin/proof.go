// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"fmt"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/kubectl/pkg/util/templates"

	subresources "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
)

func (p *plugin) newProof() *cobra.Command {
	print := genericclioptions.NewPrintFlags("").WithTypeSetter(scheme)
	cmd := &cobra.Command{
		Use:                   "proof NAME [-o FORMAT]",
		DisableFlagsInUseLine: true,
		Short:                 "Prove now that a Bottle can reach nothing but its bundle",
		Long: templates.LongDesc(`
			Proves, from inside the guest, what the guest can reach, and shows each target with
			what should happen and what the node saw. The exit code is 1 unless it is proven that
			the guest can reach nothing but its bundle.`),
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.completeName(),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := p.interruptible(cmd.Context())
			defer cancel()
			c, err := p.client()
			if err != nil {
				return err
			}
			proof := &subresources.BottleProof{}
			if err := c.act(ctx, args[0], "proof", proof); err != nil {
				return err
			}
			if *print.OutputFormat == "" {
				err = p.printProof(proof)
			} else if printer, perr := print.ToPrinter(); perr != nil {
				err = perr
			} else {
				err = printer.PrintObj(proof, p.Out)
			}
			if err == nil && proof.Status != metav1.ConditionTrue {
				return quietExit(1)
			}
			return err
		},
	}
	print.AddFlags(cmd)
	return cmd
}

func (p *plugin) printProof(proof *subresources.BottleProof) error {
	rows := [][]string{{"TARGET", "PROTOCOL", "EXPECTED", "OBSERVED", "BY"}}
	for _, t := range proof.Targets {
		rows = append(rows, []string{t.Address, t.Protocol, t.Expected, t.Observed, t.By})
	}
	if err := table(p.Out, rows); err != nil {
		return err
	}
	took := proof.FinishTime.Sub(proof.StartTime.Time)
	fmt.Fprintf(p.Out, "\nEgressEnforced %s (%s): %s\nThe proof took %s.\n", clean(string(proof.Status)), clean(proof.Reason), clean(proof.Message), took)
	return nil
}
