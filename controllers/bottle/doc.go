// SPDX-License-Identifier: Apache-2.0

// Package bottle is the agent's part of the operator. On one node, it creates
// what the Bottles placed there specify, reports the result in their status,
// and removes what belongs to no Bottle. It runs a list of steps, which do
// their I/O through the ports of internal/host. It does not choose nodes
// (package placement does), does not talk to dockerd or smolvm itself, and
// keeps nothing in memory that it could not find out again after a restart.
// The steps, in order, are in steps.go; docs/reconcile.md explains each one.
package bottle
