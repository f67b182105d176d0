// SPDX-License-Identifier: Apache-2.0

// Package plugin is "kubectl bottle": one file per verb. It uses kubectl's own code for
// flags, printers, terminals, completion and exit codes, and needs nothing but a
// kubeconfig. What a user may do is decided by the API server, not here.
//
// What the cluster or a guest wrote is cleaned of control characters before it is shown,
// except the output of sessions and logs, which is passed on as it is.
package plugin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/exec"
	"k8s.io/kubectl/pkg/cmd/options"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/util/completion"
	"k8s.io/kubectl/pkg/util/templates"
)

// resourceName is the name of Bottles on kubectl's command line.
const resourceName = "bottles.botbottle.dev"

// Invocation is one call of the plugin.
type Invocation struct {
	// Args are the program's name and its arguments.
	Args    []string
	Streams genericiooptions.IOStreams
	// Signals are the requests to stop, such as Ctrl-C; nil for none.
	Signals <-chan os.Signal
	// RetryPause is the pause between two requests after one has failed. A second is the
	// default.
	RetryPause time.Duration
}

// plugin is what all verbs share.
type plugin struct {
	genericiooptions.IOStreams
	factory cmdutil.Factory
	signals <-chan os.Signal
	pause   time.Duration // after a request that has failed
}

// Run runs the plugin and returns its exit code: that of the command for exec, shell,
// attach and run, 128 plus the signal's number after a signal, and 1 for errors.
func Run(inv Invocation) int {
	catchFatal()
	args := inv.Args[1:]
	if strings.HasPrefix(filepath.Base(inv.Args[0]), "kubectl_complete-") {
		args = append([]string{cobra.ShellCompRequestCmd}, args...)
	}
	root := newRoot(inv)
	root.SetArgs(args)
	err := capture(func() error { return root.ExecuteContext(context.Background()) })
	return report(err, inv.Streams)
}

// newRoot returns the command "kubectl bottle" with all verbs.
func newRoot(inv Invocation) *cobra.Command {
	flags := genericclioptions.NewConfigFlags(true).WithWrapConfigFn(func(c *rest.Config) *rest.Config {
		c.UserAgent = rest.DefaultKubernetesUserAgent()
		return c
	})
	p := &plugin{IOStreams: inv.Streams, factory: cmdutil.NewFactory(flags), signals: inv.Signals, pause: cmp.Or(inv.RetryPause, retryPause)}
	root := &cobra.Command{
		Use:           "kubectl-bottle",
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl bottle"},
		Short:         "Work with Bottles",
		Long:          "Runs commands in Bottles, shows what they print and what they may reach, and copies files.",
		SilenceErrors: true,
		SilenceUsage:  true,
		Run:           func(cmd *cobra.Command, _ []string) { _ = cmd.Help() },
	}
	root.SetIn(inv.Streams.In)
	root.SetOut(inv.Streams.Out)
	root.SetErr(inv.Streams.ErrOut)
	flags.AddFlags(root.PersistentFlags())
	groups := templates.CommandGroups{
		{Message: "Run commands:", Commands: []*cobra.Command{p.newRun(), p.newExec(), p.newShell(), p.newAttach()}},
		{Message: "Look at Bottles:", Commands: []*cobra.Command{p.newList(), p.newLogs(), p.newWhy(), p.newEgress(), p.newProof()}},
		{Message: "Copy files:", Commands: []*cobra.Command{p.newCp()}},
		{Message: "Start and stop:", Commands: []*cobra.Command{p.newStop(), p.newStart(), p.newRestart(), p.newRecreate()}},
	}
	groups.Add(root)
	root.AddCommand(options.NewCmdOptions(p.Out))
	templates.ActsAsRootCommand(root, nil, groups...)
	completion.SetFactoryForCompletion(p.factory)
	complete := map[string]func(string) []string{
		"namespace": func(prefix string) []string { return completion.CompGetResource(p.factory, "namespace", prefix) },
		"context":   completion.ListContextsInConfig,
		"cluster":   completion.ListClustersInConfig,
		"user":      completion.ListUsersInConfig,
	}
	for name, list := range complete {
		cmdutil.CheckErr(root.RegisterFlagCompletionFunc(name, func(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
			return list(prefix), cobra.ShellCompDirectiveNoFileComp
		}))
	}
	return root
}

// completeName completes the name of one Bottle.
func (p *plugin) completeName() cobra.CompletionFunc {
	names := completion.ResourceNameCompletionFunc(p.factory, resourceName)
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names(cmd, args, prefix)
	}
}

// completeNames completes the names of several Bottles.
func (p *plugin) completeNames() cobra.CompletionFunc {
	return completion.ResourceNameCompletionFunc(p.factory, resourceName)
}

// signalError is the end because of a signal.
type signalError struct{ signal os.Signal }

func (e *signalError) Error() string { return "interrupted by " + e.signal.String() }

// interruptible returns a context that the first signal ends, with a *signalError as
// the cause.
func (p *plugin) interruptible(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	go func() {
		select {
		case s := <-p.signals:
			cancel(&signalError{s})
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// fatal is what kubectl's code ends the program with.
type fatal struct {
	message string
	code    int
}

// catchFatal makes kubectl's code panic with a fatal rather than exit, so that this
// package decides how the program ends. That setting is global.
var catchFatal = sync.OnceFunc(func() {
	cmdutil.BehaviorOnFatal(func(message string, code int) { panic(fatal{message, code}) })
})

// errFatal is an end that kubectl's code has described.
type errFatal struct{ fatal }

func (e *errFatal) Error() string { return e.message }

// capture calls run and turns a fatal into an error.
func capture(run func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			end, ok := r.(fatal)
			if !ok {
				panic(r)
			}
			err = &errFatal{end}
		}
	}()
	return run()
}

// report shows an error as kubectl does and returns the exit code.
func report(err error, streams genericiooptions.IOStreams) int {
	if err == nil {
		return 0
	}
	var interrupted *signalError
	if errors.As(err, &interrupted) {
		if s, ok := interrupted.signal.(syscall.Signal); ok {
			return 128 + int(s)
		}
		return 1
	}
	var code quietExit
	if errors.As(err, &code) {
		return int(code)
	}
	var end *errFatal
	if !errors.As(err, &end) {
		var exit exec.CodeExitError
		if errors.As(err, &exit) {
			err = exit // kubectl looks only at the outermost error
		}
		errors.As(capture(func() error { cmdutil.CheckErr(err); return nil }), &end)
	}
	if message := strings.TrimRight(end.message, "\n"); message != "" {
		fmt.Fprintln(streams.ErrOut, cleanLines(message))
	}
	return end.code
}

// quietExit ends the program with an exit code and no message.
type quietExit int

func (e quietExit) Error() string { return fmt.Sprintf("exit code %d", int(e)) }
