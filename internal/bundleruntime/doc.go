// SPDX-License-Identifier: Apache-2.0

// Package bundleruntime lets the Bottles of one node have their bundles in two runtimes:
// containers of the node's Docker Engine, or containers of the Bottles' own Pods. It chooses
// the runtime of each Bottle, remembers the choice in the Bottle's folder, and sends each
// call of a port in internal/host to the adapter of the owner's runtime.
//
// It also knows where a Bottle's Pod is on the node. The state directory records that, so
// that the guard works while the container runtime does not answer.
//
// The adapters make the networks, containers and walls. The package itself only copies rules
// into the volumes of Pods.
package bundleruntime
