// SPDX-License-Identifier: Apache-2.0

// Command testbundle has only the operator's "bundle" subcommand, so that it is
// small enough to be built for one test. It takes the same command line.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/bundleproxy"
)

func main() {
	if len(os.Args) < 2 || os.Args[1] != "bundle" {
		fmt.Fprintln(os.Stderr, "usage: testbundle bundle --rules FILE [--listen ADDRESS]")
		os.Exit(2)
	}
	flags := flag.NewFlagSet("bundle", flag.ExitOnError)
	rules := flags.String("rules", "", "the rules file")
	listen := flags.String("listen", ":8888", "the address to listen on")
	_ = flags.Parse(os.Args[2:]) // exits on an error
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	if err := bundleproxy.Run(ctx, bundleproxy.Options{Listen: *listen, RulesPath: *rules, Log: os.Stdout}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
