// SPDX-License-Identifier: Apache-2.0

// Package node maintains the agent's own Node. It keeps the facts about the
// node, publishes on the Node object whether Bottles can run there, and renews
// the agent's Lease. It does not know Bottles.
package node
