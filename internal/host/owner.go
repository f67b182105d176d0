// SPDX-License-Identifier: Apache-2.0

// Package host defines the ports through which the agent acts on its node:
// networks, bundles, machines, images, walls, canaries and node facts, in the
// caller's terms. It has value types, interfaces and error kinds, but no
// implementation. The adapters are in internal/docker, internal/smolvm,
// internal/wall and internal/enforce/canary, the in-memory fakes in hosttest,
// and the suites that all of them pass in hostcontract.
package host

// Owner identifies the Bottle that owns an object on the node. All six fields
// are written to the labels of every docker network, container and (if this
// version of smolvm has labels) machine.
type Owner struct {
	UID       string // metadata.uid of the Bottle
	Namespace string
	Name      string
	Slug      string
	Cluster   string // UID of the kube-system namespace
	Node      string
}

// ID returns the name of the Bottle's machine, docker network and bundle
// container: bottle-SLUG-UID8, at most 56 characters of [a-z0-9-] without "--".
func (o Owner) ID() string { return "bottle-" + o.Slug + "-" + o.UID8() }

// UID8 returns the first eight characters of the UID.
func (o Owner) UID8() string { return o.UID[:min(8, len(o.UID))] }

// Bridge returns the name of the docker network's bridge interface: bb-UID8.
func (o Owner) Bridge() string { return "bb-" + o.UID8() }

// Veth returns the name of the bundle's end of the wall's link: bv-UID8.
func (o Owner) Veth() string { return "bv-" + o.UID8() }

// Same reports whether p is the same Bottle of the same cluster on the same
// node.
func (o Owner) Same(p Owner) bool {
	return o.UID == p.UID && o.Cluster == p.Cluster && o.Node == p.Node
}

// Local reports whether p is any Bottle of the same cluster and node.
func (o Owner) Local(p Owner) bool {
	return p.UID != "" && o.Cluster == p.Cluster && o.Node == p.Node
}
