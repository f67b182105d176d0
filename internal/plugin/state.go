// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/kubectl/pkg/util/templates"
	"k8s.io/kubectl/pkg/util/term"

	subresources "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// each returns what a verb does with each Bottle that is named.
func (p *plugin) each(done string, do func(ctx context.Context, c *client, name string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx, cancel := p.interruptible(cmd.Context())
		defer cancel()
		c, err := p.client()
		if err != nil {
			return err
		}
		for _, name := range args {
			if err := do(ctx, c, name); err != nil {
				return err
			}
			fmt.Fprintln(p.Out, sentence(name, done))
		}
		return nil
	}
}

func (p *plugin) newStop() *cobra.Command {
	return &cobra.Command{
		Use:                   "stop NAME…",
		DisableFlagsInUseLine: true,
		Short:                 "Stop Bottles and keep their disks",
		Long: templates.LongDesc(`
			Sets spec.desiredState to Stopped: the machine is shut down and its disk is kept. What
			the Bottle has booked on its node stays booked.`),
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: p.completeNames(),
		RunE: p.each("stopping", func(ctx context.Context, c *client, name string) error {
			return c.setDesiredState(ctx, name, v1alpha1.DesiredStateStopped)
		}),
	}
}

func (p *plugin) newStart() *cobra.Command {
	return &cobra.Command{
		Use:                   "start NAME…",
		DisableFlagsInUseLine: true,
		Short:                 "Start stopped Bottles",
		Long:                  templates.LongDesc(`Sets spec.desiredState to Running. To run a finished Bottle again, use restart.`),
		Args:                  cobra.MinimumNArgs(1),
		ValidArgsFunction:     p.completeNames(),
		RunE: p.each("starting", func(ctx context.Context, c *client, name string) error {
			return c.setDesiredState(ctx, name, v1alpha1.DesiredStateRunning)
		}),
	}
}

func (p *plugin) newRestart() *cobra.Command {
	return &cobra.Command{
		Use:                   "restart NAME…",
		DisableFlagsInUseLine: true,
		Short:                 "Stop and start the machines of Bottles, or run finished ones again",
		Long: templates.LongDesc(`
			Stops the machine and starts it again, with the disk that it has. A finished Bottle runs
			its command again.`),
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: p.completeNames(),
		RunE: p.each("restarting", func(ctx context.Context, c *client, name string) error {
			return c.act(ctx, name, "restart", &subresources.BottleAction{})
		}),
	}
}

func (p *plugin) newRecreate() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:                   "recreate NAME… [--yes]",
		DisableFlagsInUseLine: true,
		Short:                 "Replace the machines of Bottles with new ones; their disks are lost",
		Long: templates.LongDesc(`
			Replaces the machine with a new one, made from the image and with all changes of the
			spec. Everything on its disk is lost.`),
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: p.completeNames(),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !yes {
			if err := p.confirm(fmt.Sprintf("Everything on the disk of %s will be lost. Continue? [y/N] ", strings.Join(args, ", "))); err != nil {
				return err
			}
		}
		return p.each("recreating", func(ctx context.Context, c *client, name string) error {
			return c.act(ctx, name, "recreate", &subresources.BottleAction{})
		})(cmd, args)
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "Do not ask for confirmation")
	return cmd
}

// maxAnswer is how many bytes of an answer are read.
const maxAnswer = 1024

// confirm asks the user and returns an error unless the answer is yes.
func (p *plugin) confirm(question string) error {
	if !(term.TTY{In: p.In}).IsTerminalIn() {
		return errors.New("this cannot be undone, and nobody can be asked: use --yes")
	}
	return p.ask(question)
}

func (p *plugin) ask(question string) error {
	fmt.Fprint(p.ErrOut, question)
	answer, _ := bufio.NewReader(io.LimitReader(p.In, maxAnswer)).ReadString('\n')
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errors.New("nothing was changed")
}
