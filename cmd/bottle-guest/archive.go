// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"botbottle.dev/bottle-operator/cmd/bottle-guest/internal/archive"
)

// runTarOut writes an archive of files of the guest to the standard output.
func runTarOut(paths []string) int {
	if len(paths) == 0 {
		fmt.Fprintln(os.Stderr, usage)
		return 2
	}
	if err := archive.Out(paths, os.Stdout, func(text string) { fmt.Fprintln(os.Stderr, text) }); err != nil {
		complain(err)
		return 1
	}
	return 0
}

// runTarIn makes the files of an archive from the standard input.
func runTarIn(args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, usage)
		return 2
	}
	if err := archive.In(args[0], os.Stdin); err != nil {
		complain(err)
		return 1
	}
	return 0
}
