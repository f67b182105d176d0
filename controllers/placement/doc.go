// SPDX-License-Identifier: Apache-2.0

// Package placement assigns Bottles to nodes. For each Bottle that should run,
// it keeps a placeholder Pod, which kube-scheduler binds like any other Pod. It
// writes the node that the Pod was bound to into the Bottle's status. It notices
// drained Pods, lost nodes and agents that no longer answer, and it ensures that
// a Bottle never runs on two nodes.
//
// It does not choose nodes itself, changes nothing on the nodes and knows nothing
// about machines: everything on a node is left to the node's agent.
//
// The decisions are pure (decide.go: facts in, decision out). bottle.go and
// node.go gather the facts and carry out the decisions.
package placement
