// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"errors"

	"github.com/spf13/cobra"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/util/templates"
)

// interactive are the flags that say how a session uses the user's terminal.
type interactive struct{ stdin, tty bool }

func (i *interactive) addFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&i.stdin, "stdin", "i", false, "Pass stdin to the command")
	cmd.Flags().BoolVarP(&i.tty, "tty", "t", false, "Stdin is a TTY")
}

// session returns a session with the streams that the flags ask for.
func (p *plugin) session(name string, i interactive) *session {
	s := &session{name: name, out: p.Out, errOut: p.ErrOut}
	if i.stdin {
		s.in = p.In
	}
	if i.stdin && i.tty {
		s.useTerminal()
	}
	return s
}

// splitCommand returns the Bottle's name and the command, which follows "--".
func splitCommand(cmd *cobra.Command, args []string) (string, []string, error) {
	dash := cmd.ArgsLenAtDash()
	switch {
	case dash < 0 && len(args) > 1:
		return "", nil, cmdutil.UsageErrorf(cmd, "put -- before the command: %s NAME -- COMMAND", cmd.CommandPath())
	case len(args) == 0 || dash == 0:
		return "", nil, cmdutil.UsageErrorf(cmd, "the name of the Bottle is missing")
	case dash > 1:
		return "", nil, cmdutil.UsageErrorf(cmd, "expected one name before --, got %d", dash)
	}
	return args[0], args[1:], nil
}

func (p *plugin) newExec() *cobra.Command {
	var flags interactive
	cmd := &cobra.Command{
		Use:                   "exec NAME [-i] [-t] -- COMMAND [ARGS…]",
		DisableFlagsInUseLine: true,
		Short:                 "Run a command in a Bottle",
		Long: templates.LongDesc(`
			Runs a command in the guest of a running Bottle, with the Bottle's environment,
			and returns the command's exit code.

			Whoever runs commands in a Bottle can use the credentials of the AI agent in it.`),
		Example: templates.Examples(`
			# Show the processes
			kubectl bottle exec fix-1 -- ps aux

			# Use a terminal
			kubectl bottle exec fix-1 -it -- top`),
		ValidArgsFunction: p.completeName(),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, command, err := splitCommand(cmd, args)
			if err != nil {
				return err
			}
			if len(command) == 0 {
				return errors.New("you must specify the command to run")
			}
			s := p.session(name, flags)
			s.command = command
			return p.run(cmd.Context(), s)
		},
	}
	flags.addFlags(cmd)
	return cmd
}

func (p *plugin) newAttach() *cobra.Command {
	var flags interactive
	cmd := &cobra.Command{
		Use:                   "attach NAME [-i] [-t]",
		DisableFlagsInUseLine: true,
		Short:                 "Connect to the command that a Bottle runs",
		Long: templates.LongDesc(`
			Shows what the Bottle's own command prints, starting with the last 64 KiB at
			most, until the command ends, and returns its exit code.

			With -i, the input is passed on to a Bottle whose spec.stdin is Open or Terminal.
			Use -t exactly if spec.stdin is Terminal.`),
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.completeName(),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.run(cmd.Context(), p.session(args[0], flags))
		},
	}
	flags.addFlags(cmd)
	return cmd
}
