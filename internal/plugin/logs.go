// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubectl/pkg/util/templates"

	subresources "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
)

// sources are the values of --source.
var sources = map[string]subresources.LogSource{
	"workload": subresources.LogWorkload, "console": subresources.LogConsole,
	"bundle": subresources.LogBundle, "egress": subresources.LogEgress,
}

// sourceNames are the values of --source, in the order of the documentation.
var sourceNames = []string{"workload", "console", "bundle", "egress"}

// logFlags are the flags of logs, which are those of kubectl logs.
type logFlags struct {
	source     string
	since      time.Duration
	sinceTime  string
	tail       int64
	limitBytes int64
	subresources.BottleLogOptions
}

func (p *plugin) newLogs() *cobra.Command {
	flags := logFlags{tail: -1}
	cmd := &cobra.Command{
		Use:                   "logs NAME [-f] [-p] [--source SOURCE]",
		DisableFlagsInUseLine: true,
		Short:                 "Show what a Bottle prints",
		Long: templates.LongDesc(`
			Shows the output of the Bottle's command or, with --source, the guest's console, the
			output of its bundle, or what the bundle allowed and denied. Logs are still there
			after the Bottle has finished.`),
		Example: templates.Examples(`
			# Follow the output
			kubectl bottle logs -f fix-1

			# Show the last 20 lines that the guest's kernel wrote
			kubectl bottle logs fix-1 --source console --tail 20`),
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.completeName(),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := flags.options()
			if err != nil {
				return err
			}
			return p.copyLog(cmd.Context(), args[0], o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.source, "source", "workload", "Whose log to show: "+strings.Join(sourceNames, ", "))
	f.BoolVarP(&flags.Follow, "follow", "f", false, "Show new lines until the Bottle has finished")
	f.BoolVarP(&flags.Previous, "previous", "p", false, "Show the run before the last one")
	f.BoolVar(&flags.Timestamps, "timestamps", false, "Show the time of each line")
	f.DurationVar(&flags.since, "since", 0, "Show only lines newer than a duration like 5s, 2m, or 3h")
	f.StringVar(&flags.sinceTime, "since-time", "", "Show only lines after a time (RFC3339)")
	f.Int64Var(&flags.tail, "tail", flags.tail, "The number of lines from the end to show; -1 shows all")
	f.Int64Var(&flags.limitBytes, "limit-bytes", 0, "The number of bytes to show at most; 0 for no limit")
	registerValues(cmd, "source", sourceNames)
	return cmd
}

// registerValues completes a flag with fixed values.
func registerValues(cmd *cobra.Command, flag string, values []string) {
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // the flag does not exist
	}
}

// options returns the parameters of the request.
func (f *logFlags) options() (*subresources.BottleLogOptions, error) {
	o := f.BottleLogOptions
	var ok bool
	if o.Source, ok = sources[f.source]; !ok {
		return nil, fmt.Errorf("--source must be one of %s", strings.Join(sourceNames, ", "))
	}
	switch {
	case f.since != 0 && f.sinceTime != "":
		return nil, errors.New("at most one of --since-time and --since may be used")
	case f.since < 0:
		return nil, errors.New("--since must be greater than 0")
	case f.tail < -1:
		return nil, errors.New("--tail must be greater than or equal to -1")
	case f.limitBytes < 0:
		return nil, errors.New("--limit-bytes must be greater than 0")
	case f.since > 0:
		seconds := int64(math.Ceil(f.since.Seconds()))
		o.SinceSeconds = &seconds
	case f.sinceTime != "":
		t, err := time.Parse(time.RFC3339, f.sinceTime)
		if err != nil {
			return nil, fmt.Errorf("--since-time: %w", err)
		}
		o.SinceTime = &metav1.Time{Time: t}
	}
	if f.tail >= 0 {
		o.TailLines = &f.tail
	}
	if f.limitBytes > 0 {
		o.LimitBytes = &f.limitBytes
	}
	return &o, nil
}

// copyLog copies a log to the output.
func (p *plugin) copyLog(parent context.Context, name string, o *subresources.BottleLogOptions) error {
	ctx, cancel := p.interruptible(parent)
	defer cancel()
	c, err := p.client()
	if err != nil {
		return err
	}
	body, err := c.log(name, o).Stream(ctx)
	if err != nil {
		return err
	}
	defer body.Close()
	if _, err = io.Copy(p.Out, body); err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
