// SPDX-License-Identifier: Apache-2.0

// Package smolvm drives smolvm's command line: the adapter of host.Machines.
// Everything that differs between its releases is decided here, from a table
// of capabilities by version; everything above sees one interface.
//
// What it guards: the environment of every call is exactly ours; calls that
// write go one after another where a release needs it; starts are capped; a
// start that failed and a machine that was stopped or deleted leave no VMM
// behind; a process is signalled only after it proved to be this machine's
// VMM; what smolvm says of a Smolfile is never passed on, for it quotes the
// line, and so the values.
//
// It does not decide when a machine is to run, never calls `machine update`,
// and does not enforce any egress. Of smolvm's database it reads a machine's
// policy, which no command shows whole, from a private copy: it makes, changes
// and locks nothing beside smolvm's own files.
package smolvm
