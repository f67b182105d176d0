// SPDX-License-Identifier: Apache-2.0

// Package smolvm implements host.Machines by running smolvm's command line.
// It handles all differences between smolvm's releases, using a table of
// capabilities by version. The packages above it see one interface.
//
// It guarantees the following:
//   - Every call gets exactly the environment that this package defines.
//   - Calls that write run one at a time where a release requires it.
//   - A start that failed and a machine that was stopped or deleted leave no
//     VMM behind.
//   - A process is signalled only after it was proven to be the machine's VMM.
//   - smolvm's messages about a Smolfile are never passed on, because they
//     quote its lines and so the values.
//
// It does not decide when a machine runs, never calls `machine update`, and
// does not enforce egress. It reads a machine's policy, which no command shows
// in full, from a private copy of smolvm's database. It creates, changes and
// locks nothing next to smolvm's own files.
package smolvm
