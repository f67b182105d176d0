// SPDX-License-Identifier: Apache-2.0

// Command kubectl-bottle is the kubectl plugin for Bottles: "kubectl bottle". Under
// the name kubectl_complete-bottle it completes command lines for kubectl.
package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/moby/term"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"botbottle.dev/bottle-operator/internal/plugin"
)

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	in, out, errOut := term.StdStreams() // on Windows, these understand escape sequences
	os.Exit(plugin.Run(plugin.Invocation{
		Args:    os.Args,
		Streams: genericiooptions.IOStreams{In: in, Out: out, ErrOut: errOut},
		Signals: signals,
	}))
}
