// SPDX-License-Identifier: Apache-2.0

// Command bottle-operator runs AI coding agents in bottles: microVMs that can
// reach the network only through one sidecar container. The one binary contains
// the manager and the node agent.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	ctrl "sigs.k8s.io/controller-runtime"

	"botbottle.dev/bottle-operator/internal/nodeagent"
	"botbottle.dev/bottle-operator/internal/setup"
)

// options are the options of a subcommand.
type options interface {
	Bind(fs *pflag.FlagSet)
	Validate() error
}

func main() {
	if err := root().ExecuteContext(ctrl.SetupSignalHandler()); err != nil {
		fmt.Fprintln(os.Stderr, "bottle-operator:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "bottle-operator",
		Short:         "Runs AI coding agents in bottles",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w (%s --help lists the flags)", err, cmd.CommandPath())
	})
	manager, agent, preflight := &setup.ManagerOptions{}, &setup.AgentOptions{}, &setup.PreflightOptions{Out: os.Stdout}
	check, finish, cleanup := &setup.UninstallCheckOptions{}, &setup.UninstallFinishOptions{}, &setup.NodeCleanupOptions{Out: os.Stdout}
	cmd.AddCommand(
		logging("manager", "Serves the access API and, as the leader of several managers, places Bottles on nodes", manager, manager.Run),
		logging("agent", "Runs the Bottles of this node; runs as root, one agent per node", agent, agent.Run),
		logging("preflight", "Checks whether this node can run Bottles, and says how to fix what is missing; runs as root", preflight, preflight.Run),
		logging("uninstall-check", "Fails while Bottles exist; otherwise, it lets the operator be removed", check, check.Run),
		logging("uninstall-finish", "Removes from the cluster what the operator left on Nodes and in its namespace, after it was removed", finish, finish.Run),
		logging("node-cleanup", "Removes all Bottles and the operator from this node, after it has left the cluster; runs as root", cleanup, cleanup.Run),
		&cobra.Command{Use: "version", Short: "Prints the version", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			return setup.PrintVersion(cmd.OutOrStdout())
		}},
	)
	cmd.AddCommand(nodeAgent())
	return cmd
}

// nodeAgent returns the command of the DaemonSet's container.
func nodeAgent() *cobra.Command {
	var o nodeagent.Options
	cmd := &cobra.Command{
		Use:   "node-agent -- FLAGS",
		Short: "Starts the agent on the node from a privileged container, and passes FLAGS on to it",
		RunE:  func(_ *cobra.Command, flags []string) error { return o.Run(flags) },
	}
	o.Bind(cmd.Flags())
	return cmd
}

// logging returns a command that logs to stderr and has flags for that.
func logging(name, short string, o options, run func(context.Context) error) *cobra.Command {
	cmd, logs := &cobra.Command{Use: name, Short: short, Args: cobra.NoArgs}, &setup.LogOptions{}
	o.Bind(cmd.Flags())
	logs.Bind(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := o.Validate(); err != nil {
			return err
		}
		if err := logs.Install(os.Stderr); err != nil {
			return err
		}
		return run(cmd.Context())
	}
	return cmd
}
