// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/spf13/cobra"
	"k8s.io/client-go/util/exec"
	"k8s.io/kubectl/pkg/util/templates"
)

// shells are the shells that shell tries, the best first.
var shells = []string{"/bin/bash", "/bin/sh"}

func (p *plugin) newShell() *cobra.Command {
	var shell string
	cmd := &cobra.Command{
		Use:                   "shell NAME [--shell PATH]",
		DisableFlagsInUseLine: true,
		Short:                 "Open a shell in a Bottle",
		Long:                  templates.LongDesc(`Opens a shell in a running Bottle: bash if the guest has it, otherwise sh.`),
		Example:               templates.Examples(`kubectl bottle shell fix-1`),
		Args:                  cobra.ExactArgs(1),
		ValidArgsFunction:     p.completeName(),
		RunE: func(cmd *cobra.Command, args []string) error {
			chosen := shell
			if chosen == "" {
				var err error
				if chosen, err = p.pickShell(cmd.Context(), args[0]); err != nil {
					return err
				}
			}
			s := p.session(args[0], interactive{stdin: true, tty: true})
			s.command = []string{chosen}
			return p.run(cmd.Context(), s)
		},
	}
	cmd.Flags().StringVar(&shell, "shell", "", "The shell to run, instead of the first one that the guest has")
	return cmd
}

// pickShell returns the first shell that the guest can run.
func (p *plugin) pickShell(ctx context.Context, name string) (string, error) {
	for _, shell := range shells {
		err := p.run(ctx, &session{name: name, command: []string{shell, "-c", "exit 0"}, out: io.Discard, errOut: io.Discard})
		if err == nil {
			return shell, nil
		}
		if !absent(err) {
			return "", err
		}
	}
	return "", errors.New("the guest has neither bash nor sh: run a program that it has with kubectl bottle exec")
}

// absent reports whether a command failed because the guest does not have it or cannot
// run it.
func absent(err error) bool {
	var exit exec.CodeExitError
	return errors.As(err, &exit) && slices.Contains([]int{126, 127}, exit.Code)
}
