// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"github.com/spf13/cobra"
	"k8s.io/kubectl/pkg/cmd/get"
	"k8s.io/kubectl/pkg/util/templates"
)

// newList is "kubectl get bottles" with all of its flags.
func (p *plugin) newList() *cobra.Command {
	cmd := get.NewCmdGet("kubectl", p.factory, p.IOStreams)
	run := cmd.Run
	cmd.Run = func(cmd *cobra.Command, args []string) { run(cmd, append([]string{resourceName}, args...)) }
	cmd.Use = "list [NAME…]"
	cmd.Aliases = []string{"ls", "get"}
	cmd.SuggestFor = nil
	cmd.Short = "List Bottles"
	cmd.Long = templates.LongDesc(`Lists Bottles, with the flags of kubectl get.`)
	cmd.Example = templates.Examples(`
		# Watch the Bottles of all namespaces
		kubectl bottle list -A -w

		# Show one as YAML
		kubectl bottle list fix-1 -o yaml`)
	cmd.ValidArgsFunction = p.completeNames()
	for _, flag := range []string{"raw", "filename", "kustomize", "recursive"} {
		_ = cmd.Flags().MarkHidden(flag)
	}
	return cmd
}
