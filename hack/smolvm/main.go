// SPDX-License-Identifier: Apache-2.0

// Command smolvm is a stand-in for smolvm's command line: test equipment for
// machines in numbers, on hosts that boot no virtual machine, and for faults
// that the real one cannot be made to have.
//
// It speaks as release 0.8.0, 1.7.7, 1.9.1 or 1.32.2 (see package release). A guest
// is a process in a root, mount and pid namespace of its own, in the network
// namespace in which `machine start` was called. It ISOLATES NOTHING and
// enforces no egress policy, and says so at each start. Its database is a
// mirror of a JSON file (see package state). It reads no packs but its own (see
// package pack), pulls from no registry, resolves no names and forwards no ports.
//
// Tests switch faults on by $HOME/.standin/faults.json (see package fault)
// and have calls counted by creating $HOME/.standin/log-calls.
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
