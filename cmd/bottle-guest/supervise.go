// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"botbottle.dev/bottle-operator/cmd/bottle-guest/internal/supervisor"
	"botbottle.dev/bottle-operator/internal/supervise"
)

// exitFailed is the exit code of a command that could not do its work, where other
// exit codes are the workload's.
const exitFailed = 125

// folders adds the flags for the folders that the node shares with the guest.
func folders(fs *flag.FlagSet) (in, out *string) {
	return fs.String("in", supervise.In, "folder with the orders"), fs.String("out", supervise.Out, "folder for the report")
}

// runSupervise runs the workload. It ends only with SIGTERM.
func runSupervise(args []string) int {
	fs := flag.NewFlagSet("supervise", flag.ContinueOnError)
	in, out := folders(fs)
	if err := fs.Parse(args); err != nil {
		return 2
	}
	if fs.NArg() == 0 {
		fmt.Fprintln(os.Stderr, usage)
		return 2
	}
	return supervisor.Run(supervisor.Options{Argv: fs.Args(), Env: os.Environ(), In: *in, Out: *out, Log: os.Stdout})
}

// runStop ends the workload for good.
func runStop(args []string) int {
	fs := flag.NewFlagSet("stop", flag.ContinueOnError)
	in, _ := folders(fs)
	grace := fs.Duration("grace", 30*time.Second, "time between SIGTERM and SIGKILL")
	if err := fs.Parse(args); err != nil || fs.NArg() > 0 {
		return 2
	}
	if err := supervisor.Stop(*in, *grace); err != nil {
		complain(err)
		return 1
	}
	return 0
}

// runAttach connects the standard streams to the workload's.
func runAttach(args []string) int {
	fs := flag.NewFlagSet("attach", flag.ContinueOnError)
	in, _ := folders(fs)
	stdin := fs.Bool("stdin", false, "forward the standard input")
	tty := fs.Bool("tty", false, "forward the size of the terminal, and put it into raw mode")
	if err := fs.Parse(args); err != nil || fs.NArg() > 0 {
		return 2
	}
	code, err := supervisor.Attach(supervisor.AttachOptions{In: *in, Stdin: *stdin, TTY: *tty})
	if err != nil {
		complain(err)
		return exitFailed
	}
	return code
}
