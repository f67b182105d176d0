// SPDX-License-Identifier: Apache-2.0

// Package access is the agent's HTTPS server for the manager: it runs commands in the
// guests of this node's Bottles, reads their logs, and proves on demand what they can
// reach. The manager has decided that the user may do it; the server accepts only the
// manager, and only for Bottles of its own node.
//
// A session ends when its client goes, and leaves nothing behind. What a guest sends is
// passed on as it is, and nothing in it is trusted. What a session carries is
// never logged.
//
// The package writes nothing to the API server, and starts and stops no machine.
package access
