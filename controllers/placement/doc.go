// SPDX-License-Identifier: Apache-2.0

// Package placement gives Bottles their nodes. For each Bottle that is to run
// it keeps a placeholder Pod, which kube-scheduler binds like any other, and
// writes the node it was bound to into the Bottle's status. It notices Pods
// that are drained, nodes that are gone and agents that no longer answer, and
// sees to it that a Bottle never runs on two nodes.
//
// It chooses no node itself, reads no Pod's phase, touches nothing on any node
// and knows nothing of machines: what a Bottle's agent says and does is the
// agent's own.
//
// The decisions are pure (decide.go: facts in, decision out); bottle.go and
// node.go gather the facts and do what was decided.
package placement
