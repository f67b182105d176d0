// SPDX-License-Identifier: Apache-2.0

// Command bottle-bundle is the default bundle: the HTTP proxy in the sidecar of a
// Bottle, which lets through what the Bottle's egress rules allow. The agent makes a
// container image from this one file. It is a program of its own, so that each of
// hundreds of bundles on a node starts fast and stays small.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/pflag"
)

func main() {
	if err := protectMemory(); err != nil {
		fmt.Fprintln(os.Stderr, "bottle-bundle:", err)
		os.Exit(1)
	}
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bottle-bundle:", err)
		os.Exit(1)
	}
}

// run parses the arguments and runs the proxy until ctx ends or a signal ends it.
func run(ctx context.Context, args []string, log io.Writer) error {
	flags, o := pflag.NewFlagSet("bottle-bundle", pflag.ContinueOnError), &options{}
	o.bind(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := o.validate(flags.Args()); err != nil {
		return err
	}
	return o.run(ctx, log)
}
