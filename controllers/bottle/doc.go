// SPDX-License-Identifier: Apache-2.0

// Package bottle is the agent's side of a Bottle: on one node it makes true
// what the Bottles placed there ask for, says so in their status, and takes
// away what belongs to none of them. It orders steps and does the I/O between
// them through the ports of internal/host; it chooses no node (package
// placement does), speaks to no dockerd or smolvm itself, and keeps nothing in
// memory that it could not find out again after a restart.
//
// The steps, in order, are in steps.go; docs/reconcile.md tells what each does.
package bottle
