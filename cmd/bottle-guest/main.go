// SPDX-License-Identifier: Apache-2.0

// Command bottle-guest is the only program that the operator puts into a guest. Its
// first argument says what it does. It needs nothing from the guest: no shell, no
// /etc, no /proc.
//
//	probe      tries the targets of a plan and prints what happened
//	supervise  runs the workload
//	stop       ends the workload
//	attach     connects to the workload's input and output
//	tar-out    writes an archive of files
//	tar-in     makes the files of an archive
package main

import (
	"fmt"
	"os"
	"strings"
)

// commands has what each first argument runs. Each returns the exit code.
var commands = map[string]func(args []string) int{
	"probe":     runProbe,
	"supervise": runSupervise,
	"stop":      runStop,
	"attach":    runAttach,
	"tar-out":   runTarOut,
	"tar-in":    runTarIn,
}

const usage = `usage: bottle-guest probe
       bottle-guest supervise [--] COMMAND [ARGUMENT...]
       bottle-guest stop [--grace DURATION]
       bottle-guest attach [--stdin] [--tty]
       bottle-guest tar-out PATH...
       bottle-guest tar-in DEST`

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	os.Exit(commands[os.Args[1]](os.Args[2:]))
}

// complain prints an error the way all commands do.
func complain(err error) {
	fmt.Fprintln(os.Stderr, "bottle-guest:", strings.TrimSpace(err.Error()))
}
