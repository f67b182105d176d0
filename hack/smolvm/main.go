// SPDX-License-Identifier: Apache-2.0

// Command smolvm is a stand-in for smolvm's command line. Tests use it to run
// many machines, to run on hosts that cannot boot virtual machines, and to
// inject faults that the real smolvm cannot be made to produce.
//
// It behaves like release 0.8.0, 1.7.7, 1.9.1 or 1.32.2 (see package release). A
// guest is a process with its own root, mount namespace and pid namespace, in
// the network namespace in which `machine start` was called. It ISOLATES NOTHING
// and enforces no egress policy, and says so at each start. Its database is a
// mirror of a JSON file (see package state). It reads only its own packs (see
// package pack), pulls from no registry, resolves no names and forwards no ports.
//
// Tests inject faults by writing $HOME/.standin/faults.json (see package fault),
// and enable the log of calls by creating $HOME/.standin/log-calls.
package main

import (
	"os"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/cli"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/guest"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "_boot-vm" {
		os.Exit(guest.Main(os.Args[2]))
	}
	os.Exit(cli.Main(os.Args[1:]))
}
