// SPDX-License-Identifier: Apache-2.0

// Package node is the agent's side of its own Node: it keeps the facts about
// the node, publishes on the Node object whether Bottles can run there, and
// renews the agent's Lease. It knows no Bottle.
package node
